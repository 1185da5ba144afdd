"""Step 5: every trained model on the test split, as Ray tasks over ranges of its rows."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datagen import Rows, read_rows
from datagen.reader import read_dataset
from datagen.schema import Dataset
from pipelines.context import Context
from pipelines.generate import dataset
from pipelines.kinds import kinds_of
from pipelines.mistakes import Failure, Instead, Mistakes, failures, instead, markdown
from pipelines.steps import Run, Step
from sleepmodel import load
from sleepmodel.config import Curriculum
from sleepmodel.costs import Cost, saved_costs
from sleepmodel.evaluation import NO_CURRICULUM, RESAMPLES, Accuracy, Int64, Share, batch_rows, predict_range, score
from sleepmodel.job import MODEL, read_history

RESULTS, COSTS, MISTAKES, READABLE = "results.json", "costs.json", "mistakes.json", "mistakes.md"
NO_TOKEN = -2
TASK_BATCHES = 4  # batches that a Ray task predicts: enough to be worth the loading of a model


@dataclass(frozen=True)
class Result:
    """One trained model on the test split. line: its line of the comparison; tokens and seconds: of its training;
    flops: of its training; tokens_per_second: of its training, the median report's; validation: its last validation
    accuracy, and level: of which rows, where it had a curriculum; floor: the share of test rows that the commonest
    answer gets right; path: of the model, under the root; commit: of the code that trained it, "" where unknown."""

    line: str
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


@dataclass(frozen=True)
class Entry:
    """A trained model that is evaluated with `sleep_passes` passes, or with those of each row's level where its
    curriculum says so, as a line of the comparison."""

    line: str
    sleep_passes: int
    training: Path
    data: Path
    commit: str = ""
    curriculum: Curriculum = NO_CURRICULUM


def read_results(output: Path) -> list[Result]:
    """What a finished evaluation holds."""
    return [result_of(record) for record in json.loads((output / RESULTS).read_text())]


def read_costs(output: Path) -> list[Cost]:
    """What each line of a finished evaluation costs its user."""
    return [Cost(**record) for record in json.loads((output / COSTS).read_text())]


def read_mistakes(output: Path) -> list[Mistakes]:
    """What the first seed of each line of a finished evaluation gets wrong."""
    return [
        Mistakes(
            record["line"],
            record["seed"],
            [Instead(**found) for found in record["instead"]],
            [Failure(**found) for found in record["failures"]],
        )
        for record in json.loads((output / MISTAKES).read_text())
    ]


def evaluate_step(lines: dict[str, list[Step]], more: dict[str, tuple[int, ...]], context: Context) -> Step:
    """lines: line of the comparison -> its trainings, one a seed; the first input of each is its dataset. more: line ->
    other N to evaluate it at, where there are any."""
    pairs = [(line, train, train.inputs[0]) for line, steps in lines.items() for train in steps]
    inputs = tuple(dict.fromkeys(step for _, train, data in pairs for step in (train, data)))
    config = {"lines": {line: [train.name for train in steps] for line, steps in lines.items()}, "more": more}

    def run(run: Run) -> None:
        found = {
            train: entries(line, run.path(train), dataset(run.path(data)), context.commit_of(train), more.get(line, ()))
            for line, train, data in pairs
        }
        everything = [entry for group in found.values() for entry in group]
        test = {entry.data: read_rows(entry.data, "test") for entry in everything}
        predicted = dict(zip(everything, predict_all(everything, test, context), strict=True))
        about = {data: read_dataset(data) for data in test}
        kinds = {data: kinds_of(rows, about[data]) for data, rows in test.items()}
        results = {
            entry: measure(entry, test[entry.data], predicted[entry], run.root, kinds[entry.data])
            for entry in everything
        }
        for line, train, _ in pairs:
            for entry in found[train]:
                result = results[entry]
                at = "" if entry.line == line else f"-n{entry.sleep_passes}"  # MLflow refuses an @ in a name
                context.log(train, _metrics(result, at), result.tokens)
        # the models of one line differ in their seeds alone: one of each is looked at closely
        first = {entry.line: entry for entry in reversed(everything)}
        shown = [first[line] for line in dict.fromkeys(entry.line for entry in everything)]
        mistakes = [_mistakes(results[entry], test[entry.data], predicted[entry], about[entry.data]) for entry in shown]
        saved = [(entry.line, entry.training / MODEL, entry.sleep_passes) for entry in shown]
        (costs,) = context.map(saved_costs, [(saved,)], cores=1)
        for file, records in ((RESULTS, list(results.values())), (COSTS, costs), (MISTAKES, mistakes)):
            (run.output / file).write_text(json.dumps([asdict(record) for record in records], indent=2))
        (run.output / READABLE).write_text(markdown(mistakes))

    return Step("evaluate", config, run, inputs, slots=None, version=3)


def entries(line: str, training: Path, data: Path, commit: str = "", more: tuple[int, ...] = ()) -> list[Entry]:
    """A trained model at its own N, and at each other N that it was trained for and of `more`, as lines of their own
    ("line@N")."""
    own, train = json.loads((training / MODEL / "config.json").read_text())["sleep_passes"], _train_config(training)
    trained, curriculum = train["sleep_passes"] or [own], _curriculum(train)
    return [
        Entry(line if passes == own else f"{line}@{passes}", passes, training, data, commit, curriculum)
        for passes in sorted({own, *trained, *more})
    ]


def predict_all(
    entries: Sequence[Entry], test: dict[Path, Rows], context: Context, task_batches: int = TASK_BATCHES
) -> list[Int64]:
    """`predict` for each entry on all its test rows, as Ray tasks of `task_batches` batches each.

    Batches are the same for any number of tasks, and so is every bit of the result.
    """
    gpu = bool(context.allotment.scale.gpu)
    calls: list[tuple[object, ...]] = []
    owners: list[int] = []
    for i, entry in enumerate(entries):
        rows, model = test[entry.data], entry.training / MODEL
        size = batch_rows(rows)
        for start in range(0, len(rows), task_batches * size):
            end = min(start + task_batches * size, len(rows))
            calls.append((model, entry.data, start, end, entry.sleep_passes, size, gpu, entry.curriculum))
            owners.append(i)
    parts = context.map(predict_range, calls, cores=1, gpus=int(gpu))
    predicted = []
    for i, entry in enumerate(entries):
        mask = test[entry.data].loss_mask()
        dense = np.full(mask.shape, -1, np.int64)
        dense[mask] = np.concatenate([part for owner, part in zip(owners, parts, strict=True) if owner == i])
        predicted.append(dense)
    return predicted


def measure(entry: Entry, rows: Rows, predicted: Int64, root: Path, kinds: Sequence[str] = ()) -> Result:
    """What a trained model's predictions on its test rows, of these kinds, are worth."""
    model, history, train = load(entry.training / MODEL), read_history(entry.training), _train_config(entry.training)
    last = history[-1]
    return Result(
        line=entry.line,
        seed=train["seed"],
        sleep_passes=entry.sleep_passes,
        fast_weight_lr=model.config.fast_weight_lr,
        tokens=last.tokens,
        seconds=last.seconds,
        flops=last.flops,
        tokens_per_second=statistics.median(at.tokens_per_second for at in history),
        level=last.level,
        validation=last.accuracy,
        floor=commonest_share(rows),
        accuracy=score(predicted, rows, RESAMPLES, kinds),
        path=str((entry.training / MODEL).relative_to(root)),
        commit=entry.commit,
    )


def commonest_share(rows: Rows) -> float:
    """The share of rows whose whole answer is the commonest one: what a model gets right that has learned nothing."""
    tokens, _ = rows.batch()
    start, length, _ = rows.answers()
    place = start[:, :, None] + np.arange(length.max())
    inside = place < (start + length)[:, :, None]
    said = np.take_along_axis(tokens[:, None], np.where(inside, place, 0), axis=2)
    answers = np.where(inside, said, NO_TOKEN).reshape(len(rows), -1)
    return float(np.unique(answers, axis=0, return_counts=True)[1].max() / len(rows))


def _mistakes(result: Result, rows: Rows, predicted: Int64, about: Dataset) -> Mistakes:
    found = instead(predicted, rows, about.vocabulary), failures(predicted, rows, about)
    return Mistakes(result.line, result.seed, *found)


def _train_config(training: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((training / "config.json").read_text())["config"]["train"]
    return config


def _curriculum(train: dict[str, Any]) -> Curriculum:
    """What of a training's curriculum says with how many passes each row is evaluated."""
    found = train["curriculum"]
    return Curriculum(levels=tuple(found["levels"]), steps_per_pass=found["steps_per_pass"])


def _metrics(result: Result, suffix: str) -> dict[str, float]:
    found = result.accuracy
    parts = {f"depth-{depth}": share for depth, share in found.answers.items()} | found.kinds
    shares = {f"test/accuracy-{part}{suffix}": share.value for part, share in parts.items()}
    return {f"test/accuracy{suffix}": found.rows.value, **shares}


def result_of(record: dict[str, Any]) -> Result:
    """A result again, from its `asdict` after JSON."""
    measured = record.pop("accuracy")
    answers = {int(depth): _share(share) for depth, share in measured["answers"].items()}
    kinds = {kind: _share(share) for kind, share in measured["kinds"].items()}
    return Result(**record, accuracy=Accuracy(_share(measured["rows"]), answers, kinds))


def _share(record: dict[str, Any]) -> Share:
    low, high = record["interval"]
    return Share(record["right"], record["total"], (low, high))


if __name__ == "__main__":
    from pipelines.cli import main

    main("evaluate", __doc__)
