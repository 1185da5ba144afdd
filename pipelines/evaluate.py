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
        measured = context.map(measure, calls, cores=1)
        for (line, train, _), results in zip(pairs, measured, strict=True):
            for result in results:
                context.log(train, _metrics(result, result.line.removeprefix(line)), result.tokens)
        records = [asdict(result) for results in measured for result in results]
        (run.output / RESULTS).write_text(json.dumps(records, indent=2))

    return Step("evaluate", names, run, inputs, cores=None)


def measure(line: str, training: Path, data: Path, root: Path) -> list[Result]:
    """One trained model on its test split: at its own N, and at each other N that it was trained for, as lines of
    their own ("line@N")."""
    torch.set_num_threads(1)
    model, history = load(training / MODEL), read_history(training)
    rows, last = read_rows(data, "test"), history[-1]
    train = json.loads((training / "config.json").read_text())["config"]["train"]
    # where rows differ in length, FLOPs are those of longest rows of as many tokens
    length, own = int(rows.lengths.max()), model.config.sleep_passes
    trained = train["sleep_passes"] or [own]
    flops = sum(model.flops(length, passes) for passes in trained) / len(trained)
    return [
        Result(
            line=line if passes == own else f"{line}@{passes}",
            seed=train["seed"],
            sleep_passes=passes,
            fast_weight_lr=model.config.fast_weight_lr,
            tokens=last.tokens,
            seconds=last.seconds,
            flops=round(3 * (last.tokens // length) * flops),
            validation=last.accuracy,
            floor=commonest_share(rows),
            accuracy=accuracy(model, rows, passes),
            path=str((training / MODEL).relative_to(root)),
        )
        for passes in sorted({own, *trained})
    ]


def _metrics(result: Result, suffix: str) -> dict[str, float]:
    depths = {f"test/accuracy-depth-{depth}{suffix}": share.value for depth, share in result.accuracy.answers.items()}
    return {f"test/accuracy{suffix}": result.accuracy.rows.value, **depths}


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
