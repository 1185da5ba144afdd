"""Registers the best model in MLflow, as `champion` if it beats the present champion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import PAD, Rows, read_rows
from datagen.artifact import Artifact
from datagen.reader import read_dataset
from datagen.storage import remove_tree
from pipelines.engine.stage import Stage, StageContext
from pipelines.reporting.results import RESULTS, EvaluationResult
from pipelines.runtime.services import Services
from pipelines.stages.evaluate import TrainedVariant, predict_all
from pipelines.stages.generate import dataset
from sleepmodel import SleepModel, load, save
from sleepmodel.config.training import Curriculum
from sleepmodel.distributed.job import MODEL, read_training
from sleepmodel.evaluation.accuracy import score as score_of
from sleepmodel.evaluation.likelihood import measure_likelihood
from sleepmodel.hub import find_base
from sleepmodel.tracking.pyfunc import MAX_ANSWER
from sleepmodel.tracking.redact import redacted
from sleepmodel.tracking.registry import Version, champion_model, promote_if, register

EXAMPLE_ROWS = 4
DATASET_TAG = "dataset"


@dataclass(frozen=True)
class Registration:
    """A model in the registry: its name and version, whether it is the champion, and why or why not."""

    name: str
    version: str
    champion: bool
    reason: str


@dataclass(frozen=True)
class Score:
    """Of a model on test rows: the share that is wholly right, and nats per answer token."""

    right: float
    nats: float

    def beats(self, other: Score) -> bool:
        return (self.right, -self.nats) > (other.right, -other.nats)

    def __str__(self) -> str:
        return f"{self.right:.4f} of test rows right, {self.nats:.4f} nats per answer token"


REGISTRATION = Artifact("registration.json", Registration)


def register_stage(candidates: dict[str, list[Stage]], evaluation: Stage, services: Services) -> Stage:
    """The stage that registers the candidate with the best validation accuracy.

    candidates: variant -> its trainings, in the order of its seeds; all of them on one dataset.
    """
    trained = [stage for stages in candidates.values() for stage in stages]
    data = trained[0].inputs[0]

    def run(context: StageContext) -> None:
        results = RESULTS.load(context.path(evaluation))
        found = [result for variant in candidates for result in results if result.variant == variant]
        index, chosen = max(enumerate(found), key=lambda pair: _rank(pair[1], context.root))
        path = dataset(context.path(data))
        rows = read_rows(path, "test")
        name = f"sleep-{read_dataset(path).task}"
        model = load(context.root / chosen.path)
        prompts, answers = _prompts(rows, None if model.config.sleep_on == "all" else model.config.window)
        version = register(
            services.store,
            services.run_of(trained[index]),
            model,
            name,
            prompts,
            answers,
            {
                DATASET_TAG: path.name,
                "test/accuracy": f"{chosen.accuracy.rows.value:.4f}",
                "preset": services.experiment.name,
                **_about_base(services.experiment.pretrained.model, model),
            },
        )
        services.end(trained[index], "FINISHED")  # register opened it again
        curriculum = read_training((context.root / chosen.path).parent).train.curriculum
        judge = partial(_judge, services, name, version, chosen, rows, path, curriculum, context.output)
        won, reason = promote_if(services.store, name, version, judge)
        REGISTRATION.save(context.output, Registration(name, version, won, reason))

    return Stage("register", {"candidates": list(candidates)}, run, (evaluation, data, *trained), version=3)


def _rank(result: EvaluationResult, root: Path) -> tuple[int, float, float]:
    """What a candidate is chosen by: the level and the accuracy of its last validation, then its training loss, as long
    answers are rarely right as a whole. A choice by test accuracy would bias that accuracy upwards."""
    loss = read_training((root / result.path).parent).history[-1].loss
    return result.level or 0, result.validation, -loss if math.isfinite(loss) else -math.inf


def _about_base(pretrained: str | None, model: SleepModel) -> dict[str, str]:
    """Tags of a model that began with a pretrained one, whose licence goes on to hold."""
    if pretrained is None:
        return {}
    name = redacted(pretrained) if ":/" in pretrained else Path(pretrained).name
    about = {"base_model": name, "base_weights": find_base(pretrained).weights}
    return {**about, "base_license": model.license or "not stated beside the weights"}


def _judge(
    services: Services,
    name: str,
    version: str,
    challenger: EvaluationResult,
    rows: Rows,
    data: Path,
    curriculum: Curriculum,
    output: Path,
    present: Version | None,
) -> tuple[bool, str]:
    """Whether a version takes the alias: it must beat the champion on the same test rows, in nats where as many are
    right, such as none of long answers. rows: the test rows of the dataset directory `data`; curriculum: that of the
    challenger's training, by which both get their N where it has steps_per_pass; output: a directory that every node
    sees; present: the champion."""
    assert challenger.likelihood is not None
    score = Score(challenger.accuracy.rows.value, challenger.likelihood.tokens.nats.value)
    if present is None:
        return True, f"the first champion, {score}"
    if present.version == version:
        return True, f"the champion already, {score}"
    if present.tags.get(DATASET_TAG) != data.name:
        return False, f"champion v{present.version} was made for another dataset; compare and move the alias by hand"
    model = champion_model(services.store, name)
    if model is None:  # its alias was deleted meanwhile: `promote_if` asks again
        return True, f"the first champion, {score}"
    # a copy, as the store may keep its files where the nodes cannot read them; the next run removes one that is left
    standing = output / f".champion-v{present.version}.tmp"
    save(model, standing / MODEL)
    try:
        champion = TrainedVariant("champion", model.config.sleep_passes, standing, data, model.config, "", curriculum)
        (predicted,) = predict_all([champion], {data: rows}, services)
    finally:
        remove_tree(standing)
    right = score_of(predicted.tokens, rows).rows.value
    rival = Score(right, measure_likelihood(predicted, rows, resamples=1).tokens.nats.value)
    won = score.beats(rival)
    return won, f"{score} {'beats' if won else 'does not beat'} champion v{present.version} with {rival}"


def _prompts(rows: Rows, window: int | None) -> tuple[npt.NDArray[np.int64], int]:
    """Example prompts: the first rows up to their first answer, padded on the right; and the length of the shortest of
    these answers, in tokens, or the most that a served model generates.

    window: of the model, if an answer has to fit into the window of its prompt; None: it may go on after it. A prompt
    that fills its last window is told without its first token, and an answer is cut at the window's end.
    """
    tokens, mask = rows.batch(slice(EXAMPLE_ROWS))
    starts = mask.argmax(axis=1)
    answers = (mask & ((~mask).cumsum(axis=1) <= starts[:, None])).sum(axis=1)
    behind = np.arange(tokens.shape[1]) >= starts[:, None]
    prompts, longest = np.where(behind, PAD, tokens)[:, : starts.max()], answers
    if window is not None:
        filled = starts % window == 0
        prompts[filled] = np.pad(prompts[filled, 1:], ((0, 0), (0, 1)), constant_values=PAD)
        longest = np.minimum(answers, -(starts - filled) % window)
    return prompts, min(int(longest.min()), MAX_ANSWER)
