"""MLflow's runs as a pipeline opens and ends them, on a real Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipelines.config.presets import PRESETS
from pipelines.engine.processes import this_process
from pipelines.engine.stage import Stage, StageContext
from pipelines.runtime.services import Services
from sleepmodel.tracking.runs import PROCESS, find_run, open_store, start_run
from tests.sleepmodel.tracking.helpers import AT
from tests.waiting import Background


def nothing(run: StageContext) -> None:
    """A stage that makes no file."""


TRAIN, TUNE = Stage("train-n1", {}, nothing), Stage("tune", {}, nothing)


@pytest.fixture
def services(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Services(PRESETS["smoke"], tmp_path)


def test_no_run_of_a_process_that_has_ended_stays_open(services: Services, tmp_path: Path) -> None:
    """A pipeline that was killed could not end its runs: the next one does, and leaves those of living ones alone."""
    store = open_store(tmp_path)
    client = MlflowClient(store.uri)

    def start(name: str, process: dict[str, object] | None = None, parent: str | None = None) -> str:
        return start_run(store, name, name, parent, {}, {PROCESS: json.dumps(process)} if process else {})

    def status(run: str | None) -> str:
        assert run is not None
        return str(client.get_run(run).info.status)

    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    left = start("left", {**this_process(), "pid": ended.pid})
    trial = start("trial of it", None, left)
    there = start("on another host", {**this_process(), "pid": ended.pid, "host": "another"})
    with Background(["sleep", "1000"]) as living:
        theirs = start("of another pipeline", {**this_process(), "pid": living.pid})
        services.connect([])
        services.start("pipeline/0")
    assert [status(run) for run in (left, trial, there, theirs)] == ["KILLED", "KILLED", "RUNNING", "RUNNING"]

    services.started(TUNE)
    services.started(TRAIN)
    services.log(TRAIN, {"seconds": 1.0}, 0)
    tune, train = find_run(store, TUNE.identity), find_run(store, TRAIN.identity)
    trials = [start(f"trial {parent}", None, parent) for parent in (tune, train)]
    services.close("FAILED")
    assert status(find_run(store, "pipeline/0")) == status(tune) == "FAILED"
    assert [status(run) for run in trials] == ["FAILED", "FAILED"] and status(train) == "FINISHED"
    assert [status(run) for run in (there, theirs)] == ["RUNNING", "RUNNING"]


def test_a_training_that_cannot_fit_the_memory_is_refused_before_any_work(services: Services) -> None:
    huge = replace(services.experiment.model, d_model=2**16, mixers=("attention",) * 64)
    stage = Stage("train-huge", {"model": huge, "train": services.experiment.train}, lambda context: None)
    with pytest.raises(ValueError, match=r"takes 1 x at least \d+\.\d\d GiB, but a node has at most .*, where 0 x as"):
        services.connect([stage])
    services.connect([TRAIN])  # a training of the preset's own model fits


def test_a_map_says_how_many_of_its_tasks_are_done(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or an evaluation of an hour would show nothing."""
    monkeypatch.setattr("pipelines.runtime.services.LOOK_SECONDS", 0.1)
    seen = list[tuple[int, int]]()

    def watch(done: int, tasks: int) -> None:
        seen.append((done, tasks))
        if done == 1:
            (tmp_path / "go").touch()

    def name_of(file: Path) -> str:
        while not file.exists():
            time.sleep(0.05)
        return file.name

    (tmp_path / "there").touch()
    services.connect([])
    calls = [(tmp_path / "go",), (tmp_path / "there",)]
    assert services.map(name_of, calls, cores=1, watch=watch) == ["go", "there"]
    assert (1, 2) in seen


def test_a_curve_is_kept_where_its_run_was_deleted(services: Services) -> None:
    services.connect([])
    services.start("pipeline/1")
    services.started(TRAIN)
    client, first = MlflowClient(services.store.uri), services.run_of(TRAIN)
    client.delete_run(first)
    services.send_curve(TRAIN, [AT])
    second = find_run(services.store, TRAIN.identity)
    assert second is not None and second != first
    assert [point.value for point in client.get_metric_history(second, "loss")] == [AT.loss]
    client.restore_run(first)
    services.close("FINISHED")
    assert {client.get_run(run).info.status for run in (first, second)} == {"FINISHED"}
