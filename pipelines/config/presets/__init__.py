"""The presets: a demonstration, the paper's figures, and a mini of each figure that two CPU cores can run.

Each preset is a function, in the file of its task; ablations.py has experiments that the paper has no figure for.
"""

from __future__ import annotations

from datagen.user_code import import_named, is_path
from pipelines.config.experiment import Experiment
from pipelines.config.presets import ablations, demo, depo, facts, gsm, iterated, retrofit, rule110, texts
from pipelines.config.presets.variants import RULES

__all__ = ["PRESETS", "RULES", "build", "experiment_named"]


def build() -> dict[str, Experiment]:
    """All presets by name, in the order of --help."""
    experiments = (
        demo.demo(),
        demo.smoke(),
        rule110.fig2a(),
        rule110.fig2a_mini(),
        rule110.fig2b(),
        rule110.fig2b_mini(),
        rule110.rows_mini(),
        rule110.by_t_mini(),
        rule110.cells_mini(),
        rule110.cells_by_t_mini(),
        depo.fig3(),
        depo.fig3_mini(),
        depo.hops_mini(),
        depo.sizes_mini(),
        depo.iterated(),
        depo.iterated_mini(),
        depo.iterated_windows(),
        gsm.fig4(),
        gsm.fig4_ouro(),
        gsm.fig4_scratch(),
        gsm.fig4_mini(),
        gsm.traces_mini(),
        gsm.sliding_fig5(),
        gsm.sliding_fig5_scratch(),
        gsm.sliding_fig5_mini(),
        retrofit.recall_mini(),
        texts.text_mini(),
        texts.positions_mini(),
        gsm.throughput_fig6(),
        gsm.throughput_fig6_mini(),
        facts.capacity_mini(),
        rule110.curriculum_mini(),
        iterated.iterated(),
        iterated.iterated_mini(),
        iterated.backward(),
        ablations.rule(),
        ablations.rule_mini(),
        ablations.eta(),
        ablations.eta_mini(),
    )
    return {experiment.name: experiment for experiment in experiments}


PRESETS = build()


def experiment_named(name: str) -> Experiment:
    """The preset of this name, or what a function of the user's own returns, "module:function".

    Raises ValueError if there is none, or if it is no Experiment. Errors of the function itself pass through.
    """
    if name in PRESETS:
        return PRESETS[name]
    if not is_path(name):
        raise ValueError(f"{name!r}: must be a preset, or module:function for an experiment of your own")
    module, function_name = import_named(name)
    function = getattr(module, function_name, None)
    found = function() if callable(function) else None
    if not isinstance(found, Experiment):
        raise ValueError(f"{name}: must be a function without arguments that returns an Experiment, got {found!r:.100}")
    return found
