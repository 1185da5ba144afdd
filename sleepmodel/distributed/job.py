"""A training as a value that can be sent to a worker: its configs, its data, and where its model goes."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from datagen.artifact import Artifact
from datagen.blocks import Blocks
from datagen.checks import require
from datagen.reader import read_dataset, read_rows, stream
from datagen.rows import Ragged
from datagen.storage import as_path, in_store, publishing, storage_errors
from datagen.tokenizer import stored_tokenizer
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Scale, TrainConfig, check_equal_blocks
from sleepmodel.evaluation.accuracy import accuracy, check_rows
from sleepmodel.evaluation.statistics import Share
from sleepmodel.hub import load_base
from sleepmodel.model import SleepModel
from sleepmodel.pretrained.insertion import begin_with
from sleepmodel.serialization.model_dir import save
from sleepmodel.training.curriculum import levels_of
from sleepmodel.training.engine import Engine
from sleepmodel.training.loop import build_model
from sleepmodel.training.progress import Progress, ProgressCallback, print_progress

if TYPE_CHECKING:
    from sleepmodel.tracking.runs import TrackingStore  # imports MLflow, for which workers would wait

MODEL = "model"
STOP_SECONDS = 2  # between two looks for the stop file in an object store


@dataclass(frozen=True)
class TrainingRecord:
    """The record of a training, stored with its model. history: all reports."""

    model: ModelConfig
    train: TrainConfig
    history: list[Progress]


TRAINING = Artifact("training.json", TrainingRecord)


@dataclass(frozen=True)
class TrainingJob:
    """One training.

    name: shown with its progress; dataset: the dataset's directory; output: where `finish` writes the model and its
    record; start, weights: the model to start from, and its checksum (see load_base, begin_with), or None; init: what
    inserted blocks that it lacks begin with, as in from_pretrained;
    store, run: the MLflow run that gets the metrics; None: no run;
    stop: if this path exists, the training saves a checkpoint and stops, and a search ends its trials; None: it runs to
        its end;
    watch: called with its progress, in the process that trains.
    """

    name: str
    model: ModelConfig
    train: TrainConfig
    dataset: str
    output: str
    start: str | None = None
    weights: str | None = None
    init: str = "zero"
    scale: Scale = field(default_factory=Scale)
    store: TrackingStore | None = None
    run: str | None = None
    stop: str | None = None
    watch: ProgressCallback = print_progress

    def rows(self) -> Blocks:
        """The training rows. Raises ValueError where ZeRO stage 3 would deadlock on them."""
        rows = stream(self.dataset, "train")
        if self.scale.zero_stage == 3:
            check_equal_blocks(self.scale, isinstance(rows.read(0).tokens, Ragged))
        return rows

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        """A function that returns a model's accuracy on the validation rows of a level; None: on all validation rows.

        Every worker must call the function with the same arguments; all get the same number. Each predicts its share of
        the rows; with ZeRO stage 3, where all must make the same forwards, each predicts all rows.

        Raises ValueError if a level of the training rows has no validation rows.
        """
        rows, curriculum = read_rows(self.dataset, "validation"), self.train.curriculum
        levels = levels_of(rows, curriculum)
        if curriculum.by_level:
            trained = np.unique(levels_of(stream(self.dataset, "train").read(0), curriculum)).tolist()
            missing = sorted(set(trained) - set(levels.tolist()))
            allowed = f"such that each has validation rows; {missing} have none among {len(rows)}"
            require(not missing, "curriculum.levels", curriculum.levels, allowed)

        def share(model: SleepModel, level: int | None) -> float:
            part = rows if level is None else rows[levels == level]
            check_rows(part)
            own = part if self.scale.zero_stage == 3 else part[engine.rank :: engine.workers]
            found = accuracy(model, own, curriculum=curriculum).rows if own.asked.any() else Share(0, 0)
            counts = torch.tensor([found.right, found.total], device=next(model.parameters()).device)
            right, total = engine.sum(counts).tolist()
            return float(right / total)

        return share

    def asked_to_stop(self) -> bool:
        """Whether the `stop` path exists."""
        if self.stop is None:
            return False
        path = as_path(self.stop)
        return _stored(self.stop, int(time.monotonic() / STOP_SECONDS)) if in_store(path) else path.exists()

    def build(self) -> SleepModel:
        """The model before its first step."""
        model = build_model(self.model, self.train, self.scale.recompute)
        if self.start is not None:
            base = load_base(self.start, self.model.window, self.weights)
            begin_with(model, base, self.init)
            model.license = base.license
        for block in model.stack if self.scale.compile else ():
            block.compile()
        return model

    def finish(self, model: SleepModel, history: list[Progress]) -> None:
        """Write the trained model and its record to `output`. When the record exists, everything else does."""
        output = as_path(self.output)
        if has_model(output):  # Ray restarted a worker that died after it had finished
            return
        model.vocabulary, model.tokenizer = read_dataset(self.dataset).vocabulary, stored_tokenizer(self.dataset)
        with publishing(output / MODEL, last=TRAINING.name) as fresh:
            save(model, fresh)
            TRAINING.save(fresh, TrainingRecord(self.model, self.train, history))


@functools.lru_cache(maxsize=1)
def _stored(path: str, tick: int) -> bool:
    """Whether a path in an object store exists; False where the store does not say. Cached until the next tick, as
    trainings ask at every step."""
    with suppress(*storage_errors()):  # the next tick asks again, and no work is lost for a question
        return as_path(path).exists()
    return False


def has_model(output: Path) -> bool:
    """Whether a job has finished, so that its model is in `output`."""
    return (output / MODEL / TRAINING.name).exists()


def read_training(output: Path) -> TrainingRecord:
    """The record of a finished job."""
    return TRAINING.load(output / MODEL)
