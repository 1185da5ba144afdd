"""What an experiment refuses when it is made, before any work."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.config.variant import Variant
from pipelines.plan import plan
from pipelines.runtime.cost_estimate import done_share
from pipelines.runtime.services import Services


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.steps=abc", r"train\.steps=abc: must be an integer"),
        ("train.stepz=3", "no field 'stepz'.*did you mean 'steps'"),
        ("model.sleep_passes=0", r"model\.sleep_passes = 0: must be an integer of at least 1"),
        ("model.fast_weight_lr=3", r"model\.fast_weight_lr = 3.*: must be a number in \(0, 2\]"),
        ("model.window=10", r"model\.window = 10: must be a divisor of the task's context of 16 tokens"),
        ("model.sleep_passes=4", r"model\.sleep_passes = 4: must be 1: the preset's variants and its search set it"),
        ("data.seed=-1", r"data\.seed = -1: must be an integer of at least 0"),
        ("model.window=1", r"model\.window = 1: must be an integer of at least 2"),
        ("task.cells=30", r"model\.window = 16: must be a divisor of the task's context of 30 tokens"),
        ("model.max_positions=17", r"model\.max_positions = 17: must be at least the task's row length 18"),
        ("model.vocab_size=2", r"model\.vocab_size = 2: must be at least 3, the task's"),
        ("seeds=[1, 1]", r"seeds = \(1, 1\): must be at least one seed, all different"),
        ("search.eta_high=2.5", r"search\.eta_high = 2\.5: must be a number in \(0, 2\]"),
        ("scale.workers=3", r"batch_size = 128: must be a multiple of workers \* accumulation = 3"),
        ("search.trials=2", r"search\.trials = 2: must be an integer of at least 3"),
        ("search.sleep_passes=[2, 2]", r"search\.sleep_passes = .*: must be .*, all different"),
        ("data.train_rows=5", r"data\.train_rows = 5: must be at least one batch of 128"),
    ],
)
def test_an_override_without_meaning_is_refused_by_name(assignment: str, message: str) -> None:
    with pytest.raises(OverrideError, match=message):
        apply_overrides(PRESETS["demo"], [assignment])


def test_variants_have_names_of_their_own() -> None:
    """Else the trainings of one would be taken for those of the other."""
    demo = PRESETS["demo"]
    twice = (Variant(name="a"), Variant(name="a", sleep_passes=2))
    with pytest.raises(ValueError, match=r"variants = \['a', 'a'\]: must be variants of different names"):
        replace(demo, variants=twice)
    taken = (Variant(name="winner"),)
    with pytest.raises(ValueError, match=r"variants = \['winner'\]: .*as the search's winner has these"):
        replace(demo, variants=taken)
    assert replace(demo, variants=taken, search=None, champions=()).variants == taken


def test_a_loop_of_a_variant_of_another_depth_is_kept() -> None:
    smoke = PRESETS["smoke"]
    mixers = smoke.model.mixers * 2
    own = {"loop": (1, len(mixers) - 1)}
    for variant in (Variant(name="a", repeat=2, model=own), Variant(name="a", mixers=mixers, model=own)):
        found = smoke.variant_model(variant)
        assert (found.mixers, found.loop) == (mixers, own["loop"])
    looped = replace(smoke, model=replace(smoke.model, loop=(0, 1)))
    assert looped.variant_model(Variant(name="a")).loop == (0, 1)
    assert looped.variant_model(Variant(name="a", repeat=2)).loop is None
    with pytest.raises(ValueError, match=r"variant a: loop = \(0, 99\): must be"):
        replace(smoke, variants=(Variant(name="a", repeat=2, model={"loop": (0, 99)}),), search=None, champions=())


def test_an_experiment_without_variants_has_a_search(tmp_path: Path) -> None:
    demo = PRESETS["demo"]
    searched = replace(demo, variants=())
    assert 0 <= done_share(searched, plan(searched, Services(searched, tmp_path)), tmp_path) < 1
    with pytest.raises(ValueError, match=r"variants = \[\]: must be at least one variant without a search"):
        replace(demo, variants=(), search=None)


@pytest.mark.parametrize("passes", [0, 2.5])
def test_a_number_of_passes_that_no_model_can_make_is_refused_before_any_work(passes: int) -> None:
    with pytest.raises(ValueError, match=rf"evaluated_at of a = {passes}: must be an integer of at least 1"):
        replace(PRESETS["demo"], variants=(Variant(name="a", evaluated_at=(2, passes)),))


def test_an_experiment_without_any_training_has_a_plan_too(tmp_path: Path) -> None:
    untrained = replace(PRESETS["demo"], variants=(Variant(name="before", share_of_steps=0),), search=None)
    assert done_share(untrained, plan(untrained, Services(untrained, tmp_path)), tmp_path) == 0


@pytest.mark.parametrize(
    ("preset", "assignment"),
    [
        ("ablation-rule-mini", "model.mixers=[attention, jet]"),
        ("throughput-fig6-mini", "model.window=64"),
        ("rule110-by-t-mini", "task.steps=8"),
    ],
)
def test_a_setting_that_every_variant_has_of_its_own_is_refused(preset: str, assignment: str) -> None:
    """It would change no training, and nobody would notice."""
    with pytest.raises(OverrideError, match=f"every variant of {preset} has its own, so that another would have no"):
        apply_overrides(PRESETS[preset], [assignment])
    # of another preset some variants have their own mixers, and the others follow
    changed = apply_overrides(PRESETS["rule110-fig2b-mini"], ["model.mixers=[attention, jet]"])
    assert {changed.variant_model(variant).mixers for variant in changed.variants} > {("attention", "jet")}


def test_what_would_deadlock_is_refused_before_any_work() -> None:
    """Workers of ZeRO stage 3 wait for each other in each block, and rows of unequal length have different ones."""
    assignments = ["scale.zero_stage=3", "scale.workers=2", "train.grad_clip=0"]
    apply_overrides(PRESETS["demo"], assignments)
    with pytest.raises(ValueError, match=r"zero_stage = 3: must be at most 2 with several workers and rows of unequal"):
        apply_overrides(PRESETS["gsm-fig4-mini"], assignments)
