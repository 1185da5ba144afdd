"""The trials of a search, and which of them is the best."""

from __future__ import annotations

import math
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
        raise ValueError(
            f"none of {len(trials)} trials ran to its end, so there is no best one: lower search.eta_high or the "
            "learning rates"
        )
    return max(complete, key=lambda trial: (trial.accuracy, -trial.sleep_passes, -_finite(trial.loss)))


def _finite(loss: float) -> float:
    """The loss; the largest there is where all batches since the last report were skipped, so that it is not known."""
    return loss if math.isfinite(loss) else math.inf
