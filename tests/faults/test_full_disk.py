"""The disk is full while a worker of Ray Train writes a checkpoint: the run says so, ends, and goes on with more room.

For other files see tests/hostile/test_disk_full.py.
"""

import dataclasses
import os
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ray.train import TrainingFailedError

from datagen import generate
from sleepmodel import Scale, SleepModel, load
from sleepmodel.distributed import checkpoints as saved
from sleepmodel.distributed import ray_train
from sleepmodel.distributed.job import MODEL, TrainingJob, read_training
from sleepmodel.distributed.ray_worker import CHECKPOINTS
from sleepmodel.training.engine import Engine
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import in_thread

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults"),
]

ROOM = 20_000  # bytes that a file may still have: less than a checkpoint, more than the logs of a worker


class FullDisk(TrainingJob):
    """From the second report on no file of the worker grows beyond ROOM, while the file `full` lies in the output."""

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        validate, output = super().validate(engine), Path(self.output)

        def check(model: SleepModel, level: int | None) -> float:
            if (output / "full").exists() and list((output / CHECKPOINTS).glob("checkpoint_2*")):
                if (output / "full").read_text() == "root":
                    ray_train.checkpoints.write_manifest = after(saved.write_manifest, fill)
                else:
                    fill()
            return validate(model, level)

        return check


def fill() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))


def after(first: Callable[..., None], then: Callable[[], None]) -> Callable[..., None]:
    def both(*arguments: object) -> None:
        first(*arguments)
        then()

    return both


@pytest.mark.parametrize("place", ["worker", "root"])
def test_a_training_ends_with_a_good_checkpoint_and_goes_on(
    ray_cluster: str, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """worker: where the worker writes its files; root: where Ray copies them to."""
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, tmp_path)
    whole = TrainingJob(
        name="t", model=TINY, train=CONFIG, dataset=str(dataset), output=str(tmp_path / "whole"), scale=Scale()
    )
    job = replace(whole, output=str(tmp_path / "full"))
    monkeypatch.setattr(ray_train, "RESTARTS", 0)  # each would meet the same disk
    undisturbed = in_thread(ray_train.fit, whole)
    Path(job.output).mkdir()
    (Path(job.output) / "full").write_text(place)
    stopped = FullDisk(**{field.name: getattr(job, field.name) for field in dataclasses.fields(TrainingJob)})
    with pytest.raises(TrainingFailedError) as caught:
        in_thread(ray_train.fit, stopped).result()
    assert "cannot be written" in str(caught.value) and re.search("make room|limit on the size", str(caught.value))
    latest = saved.latest(Path(job.output) / CHECKPOINTS)
    assert latest is not None and latest.step == CONFIG.validate_every
    (Path(job.output) / "full").unlink()
    in_thread(ray_train.fit, stopped).result()
    undisturbed.result()
    assert read_training(Path(job.output)).history[-1].step == CONFIG.steps
    ours, theirs = (load(Path(each.output) / MODEL).state_dict() for each in (job, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
