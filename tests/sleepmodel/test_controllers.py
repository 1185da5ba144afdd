"""Trainings that a process starts in turn share Ray Train's controller, and none depends on the one before it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from datagen import generate
from sleepmodel.distributed import ray_controller
from sleepmodel.distributed.job import TrainingJob, has_model
from sleepmodel.distributed.ray_train import fit
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import scaled

pytestmark = pytest.mark.slow


def test_a_controller_serves_trainings_in_turn_and_one_that_died_is_replaced(ray_cluster: str, tmp_path: Path) -> None:
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
        ray.kill(first)
        assert train("third") != first
