"""What the paper's presets are estimated to cost."""

import pytest

from benchmarks.scaling import training_loads
from pipelines.config.presets import PRESETS
from pipelines.runtime.cost_estimate import longest_chain


def test_a_chain_of_trainings_is_as_long_as_all_of_them() -> None:
    """Each of the last variants of figure 5 begins with one that begins with the transformer."""
    variants = PRESETS["gsm-sliding-fig5-scratch"].variants
    starts = {variant.name: variant.start for variant in variants}
    assert starts["n4"] == "n4-new-blocks" and starts["n4-new-blocks"] == "transformer"
    hours = {variant.name: 1.0 for variant in variants} | {"n4": 5.0, "transformer": 3.0}
    assert longest_chain(variants, hours) == 5.0 + 1.0 + 3.0


def test_blocks_outside_the_loop_run_once() -> None:
    """Of Jet-Nemotron, passes repeat the middle half."""
    experiment = PRESETS["gsm-fig4"]
    model = experiment.variant_model(next(each for each in experiment.variants if each.name == "n6"))
    assert model.loop is not None
    looped, blocks = model.loop[1] - model.loop[0], len(model.mixers)
    windows = -(-experiment.task.row_length // model.window)
    (load,) = (each for each in training_loads(experiment) if each.name == "n6")
    expected = (windows - 1) * (6 * looped + blocks - looped) + blocks
    assert 0 < looped < blocks and load.runs == pytest.approx(expected * experiment.scale.accumulation)
