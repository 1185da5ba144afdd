"""What an evaluation writes, typed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.reporting.mistakes import ConfusionCount, Mistakes, WrongAnswer
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.statistics import Share

RESULTS, COSTS, MISTAKES, READABLE = "results.json", "costs.json", "mistakes.json", "mistakes.md"


@dataclass(frozen=True)
class EvaluationResult:
    """One trained model on the test split. variant: its variant; tokens and seconds: of its training;
    flops: of its training; tokens_per_second: of its training, the median report's; validation: its last validation
    accuracy, and level: of which rows, where it had a curriculum; floor: the share of test rows that the commonest
    answer gets right; path: of the model, under the root; commit: of the code that trained it, "" where unknown."""

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


def read_results(output: Path) -> list[EvaluationResult]:
    """What a finished evaluation holds."""
    return [evaluation_result(record) for record in json.loads((output / RESULTS).read_text())]


def read_costs(output: Path) -> list[InferenceCost]:
    """What each variant of a finished evaluation costs its user."""
    return [InferenceCost(**record) for record in json.loads((output / COSTS).read_text())]


def read_mistakes(output: Path) -> list[Mistakes]:
    """What the first seed of each variant of a finished evaluation gets wrong."""
    return [
        Mistakes(
            record["variant"],
            record["seed"],
            [ConfusionCount(**found) for found in record["confusion_counts"]],
            [WrongAnswer(**found) for found in record["wrong_answers"]],
        )
        for record in json.loads((output / MISTAKES).read_text())
    ]


def evaluation_result(record: dict[str, Any]) -> EvaluationResult:
    """A result again, from its `asdict` after JSON."""
    measured = record.pop("accuracy")
    answers = {int(depth): _share(share) for depth, share in measured["answers"].items()}
    kinds = {kind: _share(share) for kind, share in measured["kinds"].items()}
    return EvaluationResult(**record, accuracy=Accuracy(_share(measured["rows"]), answers, kinds))


def _share(record: dict[str, Any]) -> Share:
    low, high = record["interval"]
    return Share(record["right"], record["total"], (low, high))
