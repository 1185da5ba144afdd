"""Registers the best model in MLflow, as `champion` if it beats the present champion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import PAD, Rows, read_rows
from datagen.artifact import Artifact
from datagen.reader import read_dataset
from pipelines.engine.stage import Stage, StageContext
from pipelines.reporting.results import RESULTS, EvaluationResult
from pipelines.runtime.services import Services
from pipelines.stages.generate import dataset
from sleepmodel import SleepModel, load
from sleepmodel.config.training import Curriculum
from sleepmodel.distributed.job import read_training
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.hub import find_base
from sleepmodel.tracking.pyfunc import MAX_ANSWER
from sleepmodel.tracking.redact import redacted
from sleepmodel.tracking.registry import champion, champion_model, promote, register

EXAMPLE_ROWS = 4
DATASET_TAG = "dataset"


@dataclass(frozen=True)
class Registration:
    """A model in the registry: its name and version, whether it is the champion, and why or why not."""

    name: str
    version: str
    champion: bool
    reason: str


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
        rows, fingerprint = read_rows(path, "test"), path.name
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
                DATASET_TAG: fingerprint,
                "test/accuracy": f"{chosen.accuracy.rows.value:.4f}",
                "preset": services.experiment.name,
                **_about_base(services.experiment.pretrained.model, model),
            },
        )
        services.end(trained[index], "FINISHED")  # register opened it again
        curriculum = read_training((context.root / chosen.path).parent).train.curriculum
        won, reason = _judge(services, name, version, chosen, rows, fingerprint, curriculum)
        if won:
            promote(services.store, name, version)
        REGISTRATION.save(context.output, Registration(name, version, won, reason))

    return Stage("register", {"candidates": list(candidates)}, run, (evaluation, data, *trained), version=3)


def _rank(result: EvaluationResult, root: Path) -> tuple[int, float, float]:
    """What a candidate is chosen by: the level and the accuracy of its last validation, then its training loss, as long
    answers are rarely right as a whole. A choice by test accuracy would bias that accuracy upwards."""
    loss = read_training((root / result.path).parent).history[-1].loss
    return result.level or 0, result.validation, -loss


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
    fingerprint: str,
    curriculum: Curriculum,
) -> tuple[bool, str]:
    """Whether a version takes the alias: it must beat the champion on the same test rows. curriculum: that of the
    challenger's training, by which both get their N where it has steps_per_pass."""
    share = challenger.accuracy.rows.value
    present = champion(services.store, name)
    if present is None:
        return True, f"the first champion, {share:.4f} of test rows right"
    if present.version == version:
        return True, f"the champion already, {share:.4f} of test rows right"
    if present.tags.get(DATASET_TAG) != fingerprint:
        return False, f"champion v{present.version} was made for another dataset; compare and move the alias by hand"
    model = champion_model(services.store, name)
    assert model is not None
    rival = accuracy(model, rows, curriculum=curriculum).rows.value
    verb = "beats" if share > rival else "does not beat"
    return share > rival, f"{share:.4f} of test rows right {verb} champion v{present.version} with {rival:.4f}"


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
