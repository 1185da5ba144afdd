"""Ablations of the update rule and of eta, each at several N, on Rule 110."""

from __future__ import annotations

from pipelines.config.experiment import Experiment
from pipelines.config.presets.rule110 import mini, paper
from pipelines.config.presets.variants import HYBRID, etas, rules

MINI_SEEDS = (30, 31)


def rule() -> Experiment:
    """Every update rule."""
    return paper("ablation-rule", rules(HYBRID * 2, (1, 4)))


def rule_mini() -> Experiment:
    return mini("ablation-rule-mini", rules(HYBRID, (1, 4)), MINI_SEEDS)


def eta() -> Experiment:
    """Every eta."""
    return paper("ablation-eta", etas((1, 4)))


def eta_mini() -> Experiment:
    return mini("ablation-eta-mini", etas((1, 2, 4)), MINI_SEEDS)
