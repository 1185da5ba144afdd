"""The best model into the MLflow registry, and the alias `champion` if it beats the standing one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from datagen import PAD, Rows, read_rows
from datagen.reader import read_dataset
from pipelines.engine.stage import Stage, StageContext
from pipelines.reporting.results import EvaluationResult, read_results
from pipelines.runtime.services import Services
from pipelines.stages.generate import dataset
from sleepmodel import load
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.tracking.registry import champion, champion_model, promote, register

REGISTRATION = "registration.json"
EXAMPLE_ROWS = 4
DATASET_TAG = "dataset"


@dataclass(frozen=True)
class Registration:
    """What became of a model: its name and version in the registry, whether it is the champion, and why."""

    name: str
    version: str
    champion: bool
    reason: str


def read_registration(output: Path) -> Registration:
    """What a finished registration holds."""
    return Registration(**json.loads((output / REGISTRATION).read_text()))


def register_stage(candidates: dict[str, list[Stage]], evaluation: Stage, services: Services) -> Stage:
    """candidates: variant -> its trainings, in the order of its seeds, all on one dataset; the model
    with the best validation accuracy is registered."""
    trained = [stage for stages in candidates.values() for stage in stages]
    data = trained[0].inputs[0]

    def run(run: StageContext) -> None:
        results = read_results(run.path(evaluation))
        found = [result for variant in candidates for result in results if result.variant == variant]
        # by validation: a choice by test accuracy would flatter it
        index, chosen = max(enumerate(found), key=lambda pair: (pair[1].level or 0, pair[1].validation))
        path = dataset(run.path(data))
        rows, fingerprint = read_rows(path, "test"), path.name
        name = f"sleep-{read_dataset(path).task}"
        prompts, answers = _prompts(rows)
        version = register(
            services.store,
            services.run_of(trained[index]),
            load(run.root / chosen.path),
            name,
            prompts,
            answers,
            {
                DATASET_TAG: fingerprint,
                "test/accuracy": f"{chosen.accuracy.rows.value:.4f}",
                "preset": services.experiment.name,
            },
        )
        services.end(trained[index], "FINISHED")  # it was opened again to take the model
        won, reason = _judge(services, name, version, chosen, rows, fingerprint)
        if won:
            promote(services.store, name, version)
        registration = Registration(name, version, won, reason)
        (run.output / REGISTRATION).write_text(json.dumps(asdict(registration), indent=2))

    return Stage("register", {"candidates": list(candidates)}, run, (evaluation, data, *trained), version=2)


def _judge(
    services: Services, name: str, version: str, challenger: EvaluationResult, rows: Rows, fingerprint: str
) -> tuple[bool, str]:
    """Whether a version takes the alias: it must beat the champion on the same test rows."""
    share = challenger.accuracy.rows.value
    standing = champion(services.store, name)
    if standing is None:
        return True, f"the first champion, {share:.4f} of test rows right"
    if standing.version == version:
        return True, f"the champion already, {share:.4f} of test rows right"
    if standing.tags.get(DATASET_TAG) != fingerprint:
        return False, f"champion v{standing.version} was made for another dataset; compare and move the alias by hand"
    model = champion_model(services.store, name)
    assert model is not None
    rival = accuracy(model, rows).rows.value
    verb = "beats" if share > rival else "does not beat"
    return share > rival, f"{share:.4f} of test rows right {verb} champion v{standing.version} with {rival:.4f}"


def _prompts(rows: Rows) -> tuple[npt.NDArray[np.int64], int]:
    """The first rows up to their first answer, pads behind the shorter, and how many tokens every answer has."""
    tokens, mask = rows.batch(slice(EXAMPLE_ROWS))
    starts = mask.argmax(axis=1)
    answers = (mask & ((~mask).cumsum(axis=1) <= starts[:, None])).sum(axis=1)
    behind = np.arange(tokens.shape[1]) >= starts[:, None]
    return np.where(behind, PAD, tokens)[:, : starts.max()], int(answers.min())
