"""Trainings that a process starts in turn share Ray Train's controller, and none depends on the one before it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from datagen import generate
from sleepmodel import SleepModel
from sleepmodel.distributed import ray_controller
from sleepmodel.distributed.job import TrainingJob, has_model
from sleepmodel.distributed.ray_train import fit
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import scaled, wait_for

pytestmark = pytest.mark.slow


class Endless(TrainingJob):
    """Stays in its first validation."""

    def validate(self) -> Callable[[SleepModel, int | None], float]:
        def stay(model: SleepModel, level: int | None) -> float:
            import threading

            (Path(self.output) / "trains").touch()
            threading.Event().wait()
            return 0.0

        return stay


def test_a_controller_serves_trainings_in_turn_and_one_that_died_is_replaced(ray_cluster: str, tmp_path: Path) -> None:
    """It dies while it drives a training, whose cores become free, and while it is idle."""
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, tmp_path)
    job = TrainingJob(name="t", model=TINY, train=replace(CONFIG, steps=4), dataset=str(dataset), output="")
    ray_controller._idle.clear()
    with ThreadPoolExecutor(1) as beside:  # in the main thread, it would handle Ctrl-C

        def train(name: str) -> Any:
            """Train to the end; returns the controller."""
            one = replace(job, output=str(tmp_path / name))
            beside.submit(fit, one).result(scaled())
            assert has_model(Path(one.output))
            ((controller,),) = ray_controller._idle.values()
            return controller

        first = train("first")
        assert train("second") == first

        (tmp_path / "third").mkdir()
        given = {field.name: getattr(job, field.name) for field in fields(job)}
        third = beside.submit(fit, Endless(**{**given, "output": str(tmp_path / "third")}))
        wait_for((tmp_path / "third" / "trains").exists, "the third training")
        ray.kill(first)
        with pytest.raises(RayActorError):
            third.result(scaled())
        wait_for(lambda: ray.available_resources().get("CPU") == 4, "the cores of the third training")

        fourth = train("fourth")
        assert fourth != first
        ray.kill(fourth)
        assert train("fifth") != fourth
