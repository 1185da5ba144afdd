"""An experiment of your own: Oja's rule (my_rules.py) against gated delta, at N = 1 and 2, on the demo's task."""

from dataclasses import replace

from pipelines.config.experiment import Experiment
from pipelines.config.presets import PRESETS
from pipelines.config.variant import Variant


def rules() -> Experiment:
    """Any Experiment will do; this one changes a preset's name, variants and seeds, and leaves out its search."""
    variants = tuple(
        Variant(name=f"{name}-n{passes}", mixers=("attention", rule), sleep_passes=passes)
        for name, rule in (("gated-delta", "gated_delta"), ("oja", "my_rules:Oja"))
        for passes in (1, 2)
    )
    return replace(PRESETS["demo"], name="my-rules", variants=variants, seeds=(1, 2, 3), search=None)
