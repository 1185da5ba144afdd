"""Searches that are killed, that move, and whose trials have several workers."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from mlflow import MlflowClient
from ray import cloudpickle

from datagen import generate
from datagen.storage import as_path, in_store
from sleepmodel import Scale, SleepModel
from sleepmodel.config.training import Search
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.distributed.ray_tune import EXPERIMENT, search
from sleepmodel.distributed.ray_worker import Stopped
from sleepmodel.distributed.trials import TrialResult, best
from sleepmodel.tracking.runs import open_store, start_run
from sleepmodel.training.engine import CHECKPOINT, Engine, LocalEngine
from sleepmodel.training.loop import build_model, train
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK
from tests.sleepmodel.tracking.server import server
from tests.store import free_ports
from tests.waiting import Background, in_thread, wait_for

pytestmark = pytest.mark.slow
long = pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults")

# rungs at steps 3, 6 and 12, and reports at steps 4, 8 and 12
SEARCH = Search(trials=3, sleep_passes=(1, 2, 3), grace=4)


ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
import ray
from ray import cloudpickle
from sleepmodel.distributed.ray_tune import search

ray.init(address=sys.argv[2], log_to_driver=False)
search(*cloudpickle.load(open(sys.argv[1], "rb")), max_concurrent=1)
"""


@dataclass(frozen=True)
class Scripted(TrainingJob):
    """Its trials leave a line for each validation in `diary`.

    accuracy: of each trial, by its N; it goes on where it is no worse than those before it;
    dies, waits: the trial whose process is killed at its third validation, or that waits there to be killed;
    lingers: the trial that waits at its second validation until it is told to stop;
    diverges: the trial whose first loss is not finite.
    """

    diary: str = ""
    accuracy: Mapping[int, float] = field(default_factory=lambda: {1: 0.5, 2: 0.6, 3: 0.1})
    dies: int | None = None
    waits: int | None = None
    lingers: int | None = None
    diverges: int | None = None

    def build(self) -> SleepModel:
        model = super().build()
        if self.model.sleep_passes == self.diverges:
            model.embed.weight.data.fill_(torch.nan)
        return model

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        def told_to_stop() -> bool:
            return self.stop is not None and Path(self.stop).exists()

        def check(model: SleepModel, level: int | None) -> float:
            passes, diary = model.config.sleep_passes, Path(self.diary)
            if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
                with diary.open("a") as file:
                    file.write(f"{passes}\n")
            if diary.read_text().split().count(str(passes)) == 3:
                if passes == self.dies:
                    os.kill(os.getpid(), signal.SIGKILL)
                while passes == self.waits:
                    time.sleep(0.1)
            while passes == self.lingers and diary.read_text().split().count(str(passes)) == 2 and not told_to_stop():
                time.sleep(0.1)
            return self.accuracy[passes]

        return check


def job_under(root: Path, diary: Path, **scripted: Any) -> Scripted:
    """A job whose every path is under a root, as a new process makes it."""
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    job = Scripted("tune", MODEL, CONFIG, str(dataset), str(root / "tune"), diary=str(diary), **scripted)
    if not in_store(root):
        store = open_store(root)
        job = replace(job, store=store, run=start_run(store, "tune", "tune", None, {}, {}))
    return job


def searched(job: TrainingJob) -> list[TrialResult]:
    return in_thread(search, job, SEARCH, 1).result()


def killed(job: Scripted) -> None:
    """Run a search whose driver is killed where trial N = 2 waits, once Tune has a record of this trial on disk."""
    diary = Path(job.diary)
    pickled = diary.with_suffix(".pickle")
    pickled.write_bytes(cloudpickle.dumps((job, SEARCH)))
    command = [sys.executable, "-c", PROGRAM, str(pickled), ray.get_runtime_context().gcs_address]
    with Background(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as driver:
        driver.until(lambda: validations(diary).count(2) == 3 and recorded_trials(job) == 2, "the moment to kill it")


def recorded_trials(job: TrainingJob) -> int:
    (state,) = (as_path(job.output) / EXPERIMENT).glob("experiment_state-*.json")
    try:
        return len(json.loads(state.read_text())["trial_data"])
    except ValueError:  # half written
        return 0


def validations(diary: Path) -> list[int]:
    """Of which trials, by their N."""
    return [int(line) for line in diary.read_text().split()] if diary.exists() else []


def weights(job: TrainingJob, passes: int) -> dict[str, torch.Tensor]:
    """Of the last checkpoint of a trial."""
    for trial in (as_path(job.output) / EXPERIMENT).glob("trial-*"):
        if json.loads((trial / "params.json").read_text())["sleep_passes"] == passes:
            latest = checkpoints.latest(trial)
            assert latest is not None and latest.step == CONFIG.steps
            return torch.load(latest.path / CHECKPOINT)["model"]
    raise AssertionError(f"no trial with N = {passes}")


def undisturbed(job: TrainingJob, passes: int) -> dict[str, torch.Tensor]:
    """The weights of a training of this trial alone."""
    model = build_model(replace(MODEL, sleep_passes=passes, fast_weight_lr=1.0), CONFIG)
    train(LocalEngine(model, CONFIG), job.rows(), CONFIG, lambda model, level: 0.0, lambda at, save: None)
    return dict(model.state_dict())


def curves(job: TrainingJob) -> dict[int, tuple[str, list[int]]]:
    """Of each trial, by its N: the state of its MLflow run, and the steps it reported."""
    assert job.store
    client, experiment = MlflowClient(job.store.uri), job.store.experiment_id
    found = {}
    for run in client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{job.run}'"):
        points = client.get_metric_history(run.info.run_id, "step")
        found[int(run.data.params["model.sleep_passes"])] = (
            run.info.status,
            sorted(int(point.value) for point in points),
        )
    return found


def test_a_killed_search_goes_on_after_its_root_was_moved(ray_cluster: str, tmp_path: Path) -> None:
    """Trial N = 1 dies once, the search is killed in trial N = 2, and trial N = 3 meets the cutoffs of before."""
    old, new, diary = tmp_path / "old", tmp_path / "new", tmp_path / "diary"
    old.mkdir()
    job = job_under(old, diary, dies=1, waits=2)
    killed(job)
    assert validations(diary) == [1, 1, 1, 1, 2, 2, 2]
    assert job.store
    uri = job.store.uri.encode()
    for file in Path(job.output).rglob("*.*"):
        assert not any(form in file.read_bytes() for form in (uri, uri.hex().encode())), file
    (state,) = (Path(job.output) / EXPERIMENT).glob("experiment_state-*.json")
    state.write_bytes(state.read_bytes()[:-40])  # as if it had been killed while Tune wrote it
    old.rename(new)

    job = job_under(new, tmp_path / "again")
    trials = {trial.sleep_passes: trial for trial in searched(job)}
    assert validations(tmp_path / "again") == [2, 3]
    assert {passes: trial.complete for passes, trial in trials.items()} == {1: True, 2: True, 3: False}
    assert curves(job) == {1: ("FINISHED", [4, 8, 12]), 2: ("FINISHED", [4, 8, 12]), 3: ("FINISHED", [4])}
    for passes in (1, 2):
        got, expected = weights(job, passes), undisturbed(job, passes)
        assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert not old.exists()


@long
def test_a_killed_search_in_a_store_goes_on(ray_cluster: str, store: Path, tmp_path: Path) -> None:
    job = job_under(store, tmp_path / "diary", dies=1, waits=2)
    killed(job)
    assert validations(tmp_path / "diary") == [1, 1, 1, 1, 2, 2, 2]
    job = job_under(store, tmp_path / "again")
    trials = {trial.sleep_passes: trial.complete for trial in searched(job)}
    assert trials == {1: True, 2: True, 3: False}
    assert validations(tmp_path / "again") == [2, 3]


@long
def test_a_killed_search_goes_on_with_its_mlflow_server_at_another_port(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, database = tmp_path / "root", tmp_path / "server"
    for directory in (root, database):
        directory.mkdir()
    for port, diary, waits in zip(free_ports(2), ("diary", "again"), (2, None), strict=True):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with server(database, port):
            job = job_under(root, tmp_path / diary, waits=waits)
            if waits:
                killed(job)
            else:
                assert {trial.sleep_passes for trial in searched(job)} == {1, 2, 3}
                assert curves(job) == {1: ("FINISHED", [4, 8, 12]), 2: ("FINISHED", [4, 8, 12]), 3: ("FINISHED", [4])}
    assert not list(root.glob("*.db"))


@long
def test_a_search_that_is_told_to_stop_goes_on(ray_cluster: str, tmp_path: Path) -> None:
    stop, diary, again = (tmp_path / name for name in ("stop", "diary", "again"))
    job = replace(job_under(tmp_path, diary, waits=2), stop=str(stop))
    running = in_thread(search, job, SEARCH, 1)
    wait_for(lambda: validations(diary).count(2) == 3 and recorded_trials(job) == 2, "the moment to stop it")
    stop.touch()
    with pytest.raises(Stopped, match="tune: stopped on request; run the same command"):
        running.result()
    wait_for(lambda: ray.available_resources().get("CPU") == 4, "the cores of all trials to be free")
    stop.unlink()
    trials = {trial.sleep_passes: trial.complete for trial in searched(replace(job, waits=None, diary=str(again)))}
    assert trials == {1: True, 2: True, 3: False}
    assert validations(again) == [2, 3]


@long
def test_trials_of_several_workers_share_the_cores_without_a_deadlock(ray_cluster: str, tmp_path: Path) -> None:
    """Each trial takes all cores for its two workers. The second is stopped early, and the third needs its cores."""
    job = job_under(tmp_path, tmp_path / "diary", lingers=2)
    job = replace(job, scale=Scale(workers=2, cpus_per_worker=2), accuracy={1: 0.5, 2: 0.1, 3: 0.6})
    trials = {trial.sleep_passes: trial for trial in searched(job)}
    assert {passes: trial.complete for passes, trial in trials.items()} == {1: True, 2: False, 3: True}
    assert set(curves(job)[2][1]) < {4, 8, 12}
    assert curves(job)[1] == curves(job)[3] == ("FINISHED", [4, 8, 12])
    wait_for(lambda: ray.available_resources().get("CPU") == 4, "the cores of all trials to be free")


@long
def test_a_trial_that_diverges_at_once_ends_no_search(ray_cluster: str, tmp_path: Path) -> None:
    job = job_under(tmp_path, tmp_path / "diary", diverges=1)
    trials = {trial.sleep_passes: trial for trial in searched(job)}
    assert set(trials) == {1, 2, 3} and not trials[1].complete and (trials[1].accuracy, trials[1].tokens) == (0.0, 0)
    assert best(list(trials.values())).sleep_passes == 2
    assert curves(job)[1] == ("FINISHED", [])
