"""The presets: a laptop's demonstration, the paper's figures, and a mini of each that two cores can run.

One function a preset, in a file for each task; ablations.py has what no figure of the paper shows.
"""

from __future__ import annotations

from pipelines.config.experiment import Experiment
from pipelines.config.presets import ablations, demo, depo, gsm, rule110
from pipelines.config.presets.variants import RULES

__all__ = ["PRESETS", "RULES", "build"]


def build() -> dict[str, Experiment]:
    """Every preset by its name, in the order in which they are listed."""
    experiments = (
        demo.demo(),
        demo.smoke(),
        rule110.fig2a(),
        rule110.fig2a_mini(),
        rule110.fig2b(),
        rule110.fig2b_mini(),
        rule110.rows_mini(),
        rule110.by_t_mini(),
        depo.fig3(),
        depo.fig3_mini(),
        gsm.fig4(),
        gsm.fig4_mini(),
        gsm.sliding_fig5(),
        gsm.sliding_fig5_mini(),
        gsm.throughput_fig6(),
        gsm.throughput_fig6_mini(),
        rule110.curriculum_mini(),
        ablations.rule(),
        ablations.rule_mini(),
        ablations.eta(),
        ablations.eta_mini(),
    )
    return {experiment.name: experiment for experiment in experiments}


PRESETS = build()
