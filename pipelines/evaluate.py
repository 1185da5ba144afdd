"""Step 5: every trained model on the test split, as Ray tasks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datagen import Rows, read_rows
from pipelines.context import Context
from pipelines.generate import dataset
from pipelines.steps import Run, Step
from sleepmodel import load
from sleepmodel.evaluation import Accuracy, Share, accuracy
from sleepmodel.job import MODEL, read_history

RESULTS = "results.json"


@dataclass(frozen=True)
class Result:
    """One trained model on the test split. line: its line of the comparison; tokens and seconds: of its training;
    flops: of its training; validation: its last validation accuracy; floor: the share of test rows that the commonest
    answer gets right; path: of the model, under the root."""

    line: str
    seed: int
    sleep_passes: int
    fast_weight_lr: float
    tokens: int
    seconds: float
    flops: int
    validation: float
    floor: float
    accuracy: Accuracy
    path: str


def read_results(output: Path) -> list[Result]:
    """What a finished evaluation holds."""
    return [_result(record) for record in json.loads((output / RESULTS).read_text())]


def evaluate_step(lines: dict[str, list[Step]], context: Context) -> Step:
    """lines: line of the comparison -> its trainings, one a seed; the first input of each is its dataset."""
    pairs = [(line, train, train.inputs[0]) for line, steps in lines.items() for train in steps]
    inputs = tuple(dict.fromkeys(step for _, train, data in pairs for step in (train, data)))
    names = {line: [train.name for train in steps] for line, steps in lines.items()}

    def run(run: Run) -> None:
        calls = [(line, run.path(train), dataset(run.path(data)), run.root) for line, train, data in pairs]
        results = context.map(measure, calls, cores=1)
        for (_, train, _), result in zip(pairs, results, strict=True):
            depths = {f"test/accuracy-depth-{depth}": share.value for depth, share in result.accuracy.answers.items()}
            context.log(train, {"test/accuracy": result.accuracy.rows.value, **depths}, result.tokens)
        (run.output / RESULTS).write_text(json.dumps([asdict(result) for result in results], indent=2))

    return Step("evaluate", names, run, inputs, cores=None)


def measure(line: str, training: Path, data: Path, root: Path) -> Result:
    """One trained model on its test split."""
    torch.set_num_threads(1)
    model, history = load(training / MODEL), read_history(training)
    rows, last = read_rows(data, "test"), history[-1]
    length = int(rows.lengths.max())  # where rows differ in length, FLOPs are those of longest rows of as many tokens
    return Result(
        line=line,
        seed=json.loads((training / "config.json").read_text())["config"]["train"]["seed"],
        sleep_passes=model.config.sleep_passes,
        fast_weight_lr=model.config.fast_weight_lr,
        tokens=last.tokens,
        seconds=last.seconds,
        flops=3 * (last.tokens // length) * model.flops(length),
        validation=last.accuracy,
        floor=commonest_share(rows),
        accuracy=accuracy(model, rows),
        path=str((training / MODEL).relative_to(root)),
    )


def commonest_share(rows: Rows) -> float:
    """The share of rows whose whole answer is the commonest one: what a model gets right that has learned nothing."""
    tokens, mask = rows.batch()
    answers = np.where(mask, tokens, 0)
    return float(np.unique(answers, axis=0, return_counts=True)[1].max() / len(rows))


def _result(record: dict[str, Any]) -> Result:
    measured = record.pop("accuracy")
    answers = {int(depth): Share(**share) for depth, share in measured["answers"].items()}
    return Result(**record, accuracy=Accuracy(Share(**measured["rows"]), answers))


if __name__ == "__main__":
    from pipelines.cli import main

    main("evaluate", __doc__)
