"""The files of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from datagen.artifact import Artifact
from pipelines.reporting.mistakes import Mistakes
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.likelihood import Likelihood
from sleepmodel.evaluation.positions import NatsByPosition


@dataclass(frozen=True)
class EvaluationResult:
    """One trained model on the test split.

    tokens, seconds, flops: of its training (`training_flops`: an upper bound where the backward was truncated);
    tokens_per_second: the median of its reports.
    validation: its last validation accuracy; level: of which rows, where it had a curriculum.
    floor: the share of test rows that always guessing the most frequent answer gets right.
    questions: a fingerprint of what the test rows ask, "" in results that were published before it was kept.
    path: of the model, relative to the root; commit: of the code that trained it, "" where unknown.
    likelihood: None in results that were published before it was measured; positions: None unless rows are documents.
    """

    variant: str
    seed: int
    sleep_passes: int
    fast_weight_lr: float
    tokens: int
    seconds: float
    flops: int
    validation: float
    tokens_per_second: float
    level: int | None
    floor: float
    accuracy: Accuracy
    path: str
    commit: str = ""
    questions: str = ""
    likelihood: Likelihood | None = None
    positions: NatsByPosition | None = None


RESULTS = Artifact("results.json", list[EvaluationResult])
COSTS = Artifact("costs.json", list[InferenceCost])  # of each variant
MISTAKES = Artifact("mistakes.json", list[Mistakes])  # of the first seed of each variant
READABLE = "mistakes.md"
