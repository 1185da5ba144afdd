"""The trials of a search, and which of them is the best."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialResult:
    """A trial at its last report. complete: whether it ran to its end."""

    sleep_passes: int
    fast_weight_lr: float
    accuracy: float
    loss: float
    tokens: int
    seconds: float
    complete: bool


def best(trials: list[TrialResult]) -> TrialResult:
    """The complete trial with the highest validation accuracy; on a tie the one with fewer passes, which is cheaper.

    Raises ValueError if no trial is complete.
    """
    complete = [trial for trial in trials if trial.complete]
    if not complete:
        raise ValueError(f"none of {len(trials)} trials ran to its end, so there is no best one")
    return max(complete, key=lambda trial: (trial.accuracy, -trial.sleep_passes, -trial.loss))
