"""Two workers that skip batches, and two of which one dies while their root is in a store: they end as if nothing had
been."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle

from datagen import generate
from datagen.files import sha256
from datagen.storage import as_path
from sleepmodel import Scale, SleepModel, load
from sleepmodel.distributed import checkpoints as saved
from sleepmodel.distributed.job import MODEL, TrainingJob, read_training
from sleepmodel.distributed.ray_train import fit
from sleepmodel.distributed.ray_worker import CHECKPOINTS, Stopped
from sleepmodel.serialization.model_dir import save
from sleepmodel.training.engine import Engine
from sleepmodel.training.progress import Progress
from tests.faults.test_training import LOSS_TOLERANCE, WEIGHT_TOLERANCE
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import in_thread

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults"),
]

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import this module
STEPS, SKIPS = 24, 3  # three epochs, each with the poisoned row
STOP_AT = 11


@pytest.fixture(scope="module")
def job(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    root = tmp_path_factory.mktemp("workers")
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    return TrainingJob(
        name="t", model=TINY, train=replace(CONFIG, steps=STEPS), dataset=str(dataset), output=str(root / "run")
    )


def start(kind: type[TrainingJob], job: TrainingJob, output: Path, **changes: Any) -> Future[None]:
    """Start `job` as one of a test's kinds of job, with another output."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    return in_thread(fit, kind(**{**fields, "output": str(output), **changes}))


def curve(output: Path) -> list[Progress]:
    """The reports of a finished job, without what a clock measured."""
    return [replace(at, seconds=0.0, tokens_per_second=0.0) for at in read_training(output).history]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load(output / MODEL).state_dict()


class Poisoned(TrainingJob):
    """The gradient of one row is infinite, and so that of the one worker whose half of the batch has the row. Each
    worker leaves the checksum of its weights at each report."""

    def build(self) -> SleepModel:
        model = super().build()
        rows, counts = np.unique(self.rows().read(0).batch()[0], axis=0, return_counts=True)
        poison = torch.from_numpy(rows[counts == 1][0])  # once in an epoch

        def spoil(module: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if output.loss.requires_grad and (inputs[0] == poison).all(1).any():
                output.loss.register_hook(lambda gradient: gradient * math.inf)

        model.register_forward_hook(spoil)
        return model

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        validate, rank = super().validate(engine), ray.train.get_context().get_world_rank()
        reports = iter(range(STEPS))

        def check(model: SleepModel, level: int | None) -> float:
            copy = Path(f"{self.output}.worker-{rank}") / f"{os.getpid()}-{next(reports)}"
            copy.mkdir(parents=True)
            save(model, copy)
            return validate(model, level)

        return check


class StoppedEarly(Poisoned):
    """Is told to stop after a batch was skipped, between two reports."""

    def asked_to_stop(self) -> bool:
        steps.append(1)
        if len(steps) == STOP_AT:
            Path(f"{self.output}.stop").touch()
        return super().asked_to_stop()


steps: list[int] = []  # of StoppedEarly in this process


def test_two_workers_skip_the_batches_that_one_skips(job: TrainingJob, tmp_path: Path) -> None:
    """Though only one of them has the row. A run that was stopped in between is the same run, bit for bit."""
    train = replace(job.train, skips=SKIPS)
    runs = {n: start(Poisoned, job, tmp_path / str(n), train=train, scale=Scale(workers=n)) for n in (1, 2)}
    for running in runs.values():
        running.result()
    output, changes = tmp_path / "stopped", {"train": train, "scale": Scale(workers=2)}
    with pytest.raises(Stopped):
        start(StoppedEarly, job, output, stop=f"{output}.stop", **changes).result()
    latest = saved.latest(output / CHECKPOINTS)
    assert latest is not None and latest.step == STOP_AT
    skipped = read_skips(latest.path)
    start(Poisoned, job, output, **changes).result()

    one, two = curve(tmp_path / "1"), curve(tmp_path / "2")
    assert [(at.step, at.skipped, at.rate) for at in one] == [(at.step, at.skipped, at.rate) for at in two]
    assert 0 < skipped < one[-1].skipped == SKIPS
    assert [at.loss for at in two] == pytest.approx([at.loss for at in one], rel=LOSS_TOLERANCE)
    for name, weight in weights(tmp_path / "1").items():
        assert (weights(tmp_path / "2")[name] - weight).norm() <= WEIGHT_TOLERANCE * weight.norm(), name
    assert checksums(tmp_path / "2.worker-0") == checksums(tmp_path / "2.worker-1")
    assert curve(output) == two
    assert all(torch.equal(weights(output)[name], weight) for name, weight in weights(tmp_path / "2").items())


def read_skips(checkpoint: Path) -> int:
    return int(torch.load(checkpoint / "checkpoint.pt", weights_only=True)["state"]["done"]["skipped"])


def checksums(directory: Path) -> list[str]:
    found = sorted(directory.iterdir(), key=lambda path: int(path.name.partition("-")[2]))
    return [sha256(path / "model.safetensors") for path in found]


class Mortal(TrainingJob):
    """The second worker dies in its third validation, of SIGTERM with ZeRO 0 and of SIGKILL with others. Each leaves
    `output`.<attempt>-<rank>-<validation>."""

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        validate, rank = super().validate(engine), ray.train.get_context().get_world_rank()
        attempt = 1 + as_path(f"{self.output}.1-1-3").exists()
        validations = iter(range(1, STEPS))

        def check(model: SleepModel, level: int | None) -> float:
            mark = as_path(f"{self.output}.{attempt}-{rank}-{next(validations)}")
            mark.touch()
            if mark.name.endswith(".1-1-3"):
                os.kill(os.getpid(), signal.SIGKILL if self.scale.zero_stage else signal.SIGTERM)
                threading.Event().wait()  # for its end, which Ray's handler of SIGTERM brings
            return validate(model, level)

        return check


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_trainings_in_a_store_survive_a_dead_worker(job: TrainingJob, store: Path, tmp_path: Path, stage: int) -> None:
    """With ZeRO 1 to 3, the other's partition and that of the dead one are in one checkpoint in the store."""
    changes = {"train": replace(job.train, grad_clip=0.0), "scale": Scale(workers=2, zero_stage=stage)}
    mortal, undisturbed = store / "mortal", tmp_path / "undisturbed"
    for running in (start(Mortal, job, mortal, **changes), start(TrainingJob, job, undisturbed, **changes)):
        running.result()
    # from the second of six reports on, not from the start
    assert {path.name for path in store.glob("mortal.2-1-*")} == {f"mortal.2-1-{n}" for n in range(1, 5)}
    assert curve(mortal) == curve(undisturbed)
    others = weights(undisturbed)
    assert all(torch.equal(others[name], weight) for name, weight in weights(mortal).items())
