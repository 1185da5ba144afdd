"""Evaluates every trained model on the test split, in Ray tasks over ranges of rows."""

from __future__ import annotations

import hashlib
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from datagen import Rows, read_rows
from datagen.reader import read_dataset
from datagen.schema import Dataset
from datagen.wording import Control
from pipelines.engine.stage import Stage, StageContext
from pipelines.reporting.mistakes import Mistakes, confusion_counts, markdown, wrong_answers
from pipelines.reporting.questions import control_of, kinds_of
from pipelines.reporting.results import COSTS, MISTAKES, READABLE, RESULTS, EvaluationResult
from pipelines.runtime.saved_models import predict_range, saved_inference_costs
from pipelines.runtime.services import Services
from pipelines.runtime.user_code import mixers_env
from pipelines.stages.generate import dataset
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Curriculum
from sleepmodel.distributed.job import MODEL, read_training
from sleepmodel.distributed.progress import SendProgress
from sleepmodel.evaluation.accuracy import NO_CURRICULUM, Predictions, batch_rows, no_predictions, score
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.likelihood import measure_likelihood
from sleepmodel.evaluation.positions import are_documents, differences_by_position, measure_by_position
from sleepmodel.evaluation.statistics import RESAMPLES, Int64
from sleepmodel.training.progress import ProgressEvent

T = TypeVar("T")
REFUSED = re.compile(r"[^\w.-]")
TASK_BATCHES = 4  # batches of one Ray task: enough to be worth loading the model


@dataclass(frozen=True)
class TrainedVariant:
    """A trained model, evaluated with N = `sleep_passes`, or with the N of each row's level where its curriculum has
    steps_per_pass."""

    variant: str
    sleep_passes: int
    training: Path
    data: Path
    config: ModelConfig
    commit: str = ""
    curriculum: Curriculum = NO_CURRICULUM
    questions: str = ""


def evaluate_stage(
    variants: dict[str, list[Stage]],
    evaluated_at: dict[str, tuple[int, ...]],
    questions: dict[str, str],
    services: Services,
) -> Stage:
    """The stage that evaluates all trainings.

    variants: variant -> its trainings, one for each seed; the first input of each is its dataset.
    evaluated_at: variant -> other N to evaluate it at.
    questions: variant -> what its test rows ask (Task.test_identity).
    """
    pairs = [(variant, train, train.inputs[0]) for variant, stages in variants.items() for train in stages]
    inputs = tuple(dict.fromkeys(stage for _, train, data in pairs for stage in (train, data)))
    config = {
        "variants": {variant: [train.name for train in stages] for variant, stages in variants.items()},
        "evaluated_at": evaluated_at,
        "questions": questions,
    }

    def run(context: StageContext) -> None:
        found = {
            train: trained_variants(
                variant,
                context.path(train),
                dataset(context.path(data)),
                services.commit_of(train),
                evaluated_at.get(variant, ()),
                questions[variant],
            )
            for variant, train, data in pairs
        }
        everything = [trained for group in found.values() for trained in group]
        # the models of a variant differ in their seeds alone: costs and mistakes are those of its first model
        first = {trained.variant: trained for trained in reversed(everything)}
        shown = [first[variant] for variant in dict.fromkeys(trained.variant for trained in everything)]
        saved = [(trained.variant, trained.training / MODEL, trained.sleep_passes) for trained in shown]
        # before the predictions, which would be lost where a machine has no memory for all models at once
        (costs,) = services.map(saved_inference_costs, [(saved,)], cores=1)
        test = {data: read_rows(data, "test") for data in dict.fromkeys(trained.data for trained in everything)}
        send, name = SendProgress(context.stage.name), context.stage.name

        def watch(done: int, tasks: int) -> None:
            send(ProgressEvent(name, name, done, tasks))

        predicted = dict(zip(everything, predict_all(everything, test, services, watch=watch), strict=True))
        about = {data: read_dataset(data) for data in test}
        results = measure_all(predicted, test, about, context.root)
        for variant, train, _ in pairs:
            _log(services, variant, train, {trained: results[trained] for trained in found[train]})
        wrong = [
            _mistakes(results[trained], test[trained.data], predicted[trained].tokens, about[trained.data])
            for trained in shown
        ]
        _save(context.output, list(results.values()), costs, wrong)

    return Stage("evaluate", config, run, inputs, slots=None, version=6)


def _log(services: Services, variant: str, train: Stage, results: dict[TrainedVariant, EvaluationResult]) -> None:
    for trained, result in results.items():
        at = "" if trained.variant == variant else f"-n{trained.sleep_passes}"  # MLflow refuses an @ in a name
        services.log(train, metrics_of(result, at), result.tokens)


def _save(output: Path, results: list[EvaluationResult], costs: list[InferenceCost], mistakes: list[Mistakes]) -> None:
    RESULTS.save(output, results)
    COSTS.save(output, costs)
    MISTAKES.save(output, mistakes)
    (output / READABLE).write_text(markdown(mistakes), encoding="utf-8")


def trained_variants(
    variant: str,
    training: Path,
    data: Path,
    commit: str = "",
    evaluated_at: tuple[int, ...] = (),
    questions: str = "",
) -> list[TrainedVariant]:
    """A trained model at its own N and, as variants of their own ("variant@N"), at each other N that it was trained for
    or that `evaluated_at` has."""
    record = read_training(training)
    model, train = record.model, record.train
    return [
        TrainedVariant(
            variant if passes == model.sleep_passes else f"{variant}@{passes}",
            passes,
            training,
            data,
            model,
            commit,
            train.curriculum,
            questions,
        )
        for passes in sorted({model.sleep_passes, *train.sleep_passes, *evaluated_at})
    ]


def predict_all(
    variants: Sequence[TrainedVariant],
    test: dict[Path, Rows],
    services: Services,
    task_batches: int = TASK_BATCHES,
    watch: Callable[[int, int], None] | None = None,
) -> list[Predictions]:
    """`predict` for each trained variant on all its test rows, in Ray tasks of `task_batches` batches each. watch: as
    in `Services.map`.

    The batches do not depend on the number of tasks, so neither does any bit of the result.
    """
    gpu = bool(services.resources.scale.gpu)
    calls: list[tuple[object, ...]] = []
    owners: list[int] = []
    for i, trained in enumerate(variants):
        rows, model = test[trained.data], trained.training / MODEL
        size = batch_rows(rows, trained.config.vocab_size)
        for start in range(0, len(rows), task_batches * size):
            end = min(start + task_batches * size, len(rows))
            calls.append((model, trained.data, start, end, trained.sleep_passes, size, gpu, trained.curriculum))
            owners.append(i)
    # a champion may have mixers that the experiment does not name
    environment = mixers_env(mixer for trained in variants for mixer in trained.config.mixers)
    parts = services.map(predict_range, calls, cores=1, gpus=int(gpu), environment=environment, watch=watch)
    predicted = []
    for i, trained in enumerate(variants):
        mask = test[trained.data].loss_mask()
        own = [part for owner, part in zip(owners, parts, strict=True) if owner == i]
        dense = no_predictions(mask.shape)
        dense.tokens[mask] = np.concatenate([part.tokens for part in own])
        dense.nats[mask] = np.concatenate([part.nats for part in own])
        predicted.append(dense)
    return predicted


def measure_all(
    predicted: dict[TrainedVariant, Predictions], test: dict[Path, Rows], about: dict[Path, Dataset], root: Path
) -> dict[TrainedVariant, EvaluationResult]:
    """The result of each trained model. test, about: the test rows and the description of each dataset."""
    kinds = {data: kinds_of(rows, about[data]) for data, rows in test.items()}
    floors = {data: majority_share(rows) for data, rows in test.items()}
    windows = position_windows(list(predicted), test)
    results = {
        trained: measure(
            trained,
            test[trained.data],
            found,
            root,
            floors[trained.data],
            kinds[trained.data],
            control_of(about[trained.data]),
            windows.get(trained),
        )
        for trained, found in predicted.items()
    }
    return results | compared_by_position(results, predicted, test, windows)


def measure(
    trained: TrainedVariant,
    rows: Rows,
    predicted: Predictions,
    root: Path,
    floor: float,
    kinds: Sequence[str] = (),
    control: Control | None = None,
    window: int | None = None,
) -> EvaluationResult:
    """The result of a trained model from its predictions. floor: the `majority_share` of the rows; kinds: of the rows,
    where the task has several, and their control, if they have one; window: of the nats by position, or None.
    """
    record = read_training(trained.training)
    last = record.history[-1]
    return EvaluationResult(
        variant=trained.variant,
        seed=record.train.seed,
        sleep_passes=trained.sleep_passes,
        fast_weight_lr=record.model.fast_weight_lr,
        tokens=last.tokens,
        seconds=last.seconds,
        flops=last.flops,
        tokens_per_second=statistics.median(at.tokens_per_second for at in record.history),
        level=last.level,
        validation=last.accuracy,
        floor=floor,
        accuracy=score(predicted.tokens, rows, RESAMPLES, kinds, control),
        path=str((trained.training / MODEL).relative_to(root)),
        commit=trained.commit,
        questions=trained.questions,
        likelihood=measure_likelihood(predicted, rows, kinds, control),
        positions=None if window is None else measure_by_position(predicted, rows, window),
    )


def position_windows(variants: Sequence[TrainedVariant], test: dict[Path, Rows]) -> dict[TrainedVariant, int]:
    """The window by which the nats of each variant are told by position, where its test rows are documents: its own;
    for a model that reads whole rows in one window, the smallest of the others, so that it can be compared with them.
    """
    found: dict[TrainedVariant, int] = {}
    for data, rows in test.items():
        windows = {trained: trained.config.window for trained in variants if trained.data == data}
        shorter = [window for window in windows.values() if window < rows.lengths.max()]
        if shorter and are_documents(rows):
            found |= {trained: window if window in shorter else min(shorter) for trained, window in windows.items()}
    return found


def compared_by_position(
    results: dict[TrainedVariant, EvaluationResult],
    predicted: dict[TrainedVariant, Predictions],
    test: dict[Path, Rows],
    windows: dict[TrainedVariant, int],
) -> dict[TrainedVariant, EvaluationResult]:
    """The results of documents with the differences by position to the variants before, which have the same rows, seed
    and window."""
    alike: dict[tuple[Path, int, int], list[TrainedVariant]] = {}
    for trained, window in windows.items():
        alike.setdefault((trained.data, results[trained].seed, window), []).append(trained)
    found = {}
    for (data, _, window), group in alike.items():
        differences = differences_by_position([predicted[trained] for trained in group], test[data], window)
        for trained, less in zip(group, differences, strict=False):
            positions = results[trained].positions
            assert positions is not None
            names = [other.variant for other in group]
            compared = replace(positions, less=dict(zip(names, less, strict=False)))
            found[trained] = replace(results[trained], positions=compared)
    return found


def majority_share(rows: Rows) -> float:
    """The share of rows whose answers are the most frequent ones: what a constant guess gets right. Rows without
    answers do not count; at least one must have some."""
    counts = Counter(_answers(rows))
    return max(counts.values()) / counts.total()


def _answers(rows: Rows) -> Iterator[bytes]:
    """A digest of the answers of each row that has some, row by row, as all answers of long rows fill a memory."""
    for i in np.flatnonzero(rows.asked).tolist():
        row = rows[i : i + 1]
        (tokens,), ((starts,), (lengths,), _) = row.batch()[0], row.answers()
        found = hashlib.sha256(lengths[lengths > 0].tobytes())
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            found.update(tokens[start : start + length].tobytes())
        yield found.digest()


def _mistakes(result: EvaluationResult, rows: Rows, predicted: Int64, about: Dataset) -> Mistakes:
    found = confusion_counts(predicted, rows, about.vocabulary), wrong_answers(predicted, rows, about)
    return Mistakes(result.variant, result.seed, *found)


def metrics_of(result: EvaluationResult, suffix: str) -> dict[str, float]:
    """MLflow's metrics of a result: test/<measure>, and test/<measure>-<part> for each depth and each kind. suffix: of
    all names."""
    exact, likelihood = result.accuracy, result.likelihood
    assert likelihood is not None
    shares = _parts(exact.rows, exact.answers, exact.kinds)
    scores = _parts(likelihood.tokens, likelihood.depths, likelihood.kinds)
    values = {f"accuracy{part}": share.value for part, share in shares.items()}
    values |= {f"nats{part}": score.nats.value for part, score in scores.items()}
    values |= {f"token-accuracy{part}": score.right.value for part, score in scores.items()}
    if likelihood.gap is not None:
        gaps = _parts(likelihood.gap.nats, likelihood.gap.depths, {})
        values |= {f"nats-gap{part}": gap.value for part, gap in gaps.items()}
    return {f"test/{name}{suffix}": value for name, value in values.items()}


def _parts(whole: T, depths: dict[int, T], kinds: dict[str, T]) -> dict[str, T]:
    """What is measured of all rows, of each depth and of each kind, by the end of its metric's name, in which MLflow
    allows few characters."""
    by_depth = {f"-depth-{depth}": each for depth, each in depths.items()}
    return {"": whole} | by_depth | {f"-{REFUSED.sub('_', kind)[:100]}": each for kind, each in kinds.items()}
