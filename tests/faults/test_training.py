"""Trainings whose processes die, are told to stop, or come back as fewer or more: each ends as if nothing had been."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from mlflow import MlflowClient
from ray import cloudpickle
from ray.train import UserCallback

from datagen import generate
from sleepmodel import Scale, SleepModel, load
from sleepmodel.distributed import checkpoints as saved
from sleepmodel.distributed.job import MODEL, TrainingJob, read_training
from sleepmodel.distributed.ray_train import RAY_SNAPSHOT, fit
from sleepmodel.distributed.ray_worker import CHECKPOINTS, Stopped
from sleepmodel.tracking.runs import TrackingStore, open_store, start_run
from sleepmodel.training.engine import CHECKPOINT, Engine
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import Background, in_thread, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# another number of workers adds the same gradients in another order; Muon lifts what rounding decides to full size
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 2e-3, 0.1
ALL_STEPS = 24

PROGRAM = """
import sys
import ray
from ray import cloudpickle
from sleepmodel.distributed.ray_train import fit

# Ray Train asks the dashboard whether a controller lives; it costs 40 seconds of a core
ray.init(address="local", num_cpus=2, include_dashboard=sys.argv[2] == "dashboard")
fit(*cloudpickle.load(open(sys.argv[1], "rb")))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def store(root: Path) -> TrackingStore:
    return open_store(root)


@pytest.fixture(scope="module")
def job(ray_cluster: str, root: Path, store: TrackingStore) -> TrainingJob:
    """Two workers, a report at every fourth step."""
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    train = replace(CONFIG, steps=ALL_STEPS)
    return TrainingJob(
        name="t", model=TINY, train=train, dataset=str(dataset), output="", scale=Scale(workers=2), store=store
    )


def named(job: TrainingJob, name: str, root: Path) -> TrainingJob:
    """The job with an output and an MLflow run of its own."""
    assert job.store
    run = start_run(job.store, name, name, None, {}, {})
    return replace(job, output=str(root / name), run=run)


class Running:
    """A job that runs since this was made."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.fit = job, in_thread(fit, job)

    def result(self) -> TrainingJob:
        self.fit.result()
        return self.job


@pytest.fixture(scope="module")
def undisturbed(job: TrainingJob, root: Path) -> Running:
    """A run to which nothing happens, beside those of the tests."""
    return Running(named(job, "undisturbed", root))


def check_same(job: TrainingJob, expected: TrainingJob) -> None:
    """Curve, weights bit for bit, and one MLflow curve with each report once."""
    assert curve(job) == pytest.approx(curve(expected), rel=1e-12)
    weights, others = (load(Path(each.output) / MODEL).state_dict() for each in (job, expected))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert logged_steps(job) == logged_steps(expected) == list(range(4, ALL_STEPS + 1, 4))


def curve(job: TrainingJob) -> list[float]:
    return [
        number for at in read_training(Path(job.output)).history for number in (at.step, at.tokens, at.flops, at.loss)
    ]


def logged_steps(job: TrainingJob) -> list[int]:
    assert job.store and job.run
    history = MlflowClient(job.store.uri).get_metric_history(job.run, "step")
    return sorted(int(point.value) for point in history)


def test_killed_workers_are_replaced(job: TrainingJob, undisturbed: Running, root: Path) -> None:
    """SIGKILL of one of two workers, later of both: Ray starts them again and the run is the same run."""

    class Mortal(TrainingJob):
        def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
            rank, output = ray.train.get_context().get_world_rank(), Path(self.output)
            validate = super().validate(engine)

            def check(model: SleepModel, level: int | None) -> float:
                steps = len(list((output / CHECKPOINTS).glob("checkpoint_2*")))
                for dies, ranks, after in (("one", (1,), 1), ("all", (0, 1), 2)):
                    grave = output / f"{dies}-{rank}"
                    if rank in ranks and steps >= after and not grave.exists():
                        grave.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                return validate(model, level)

            return check

    mortal = named(job, "mortal", root)
    mortal = Mortal(**{field.name: getattr(mortal, field.name) for field in dataclasses.fields(TrainingJob)})
    Running(mortal).result()
    assert {path.name for path in (root / "mortal").glob("*-*")} == {"one-1", "all-0", "all-1"}
    check_same(mortal, undisturbed.result())


def program(job: TrainingJob, root: Path, callbacks: Sequence[UserCallback] = ()) -> list[str]:
    """The command that trains on a Ray of its own, which has room for no more than its two workers. It has a dashboard
    if callbacks may end a controller."""
    arguments = root / f"{Path(job.output).name}.pickle"
    arguments.write_bytes(cloudpickle.dumps((job, callbacks)))
    return [sys.executable, "-c", PROGRAM, str(arguments), "dashboard" if callbacks else "none"]


def orphaned(
    job: TrainingJob, name: str, root: Path, times: int
) -> tuple[TrainingJob, subprocess.CompletedProcess[str]]:
    """A run whose controller is killed `times` times, and how its driver ended."""

    class Fatal(UserCallback):  # runs in the controller
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            dead = len(list(graves.iterdir()))
            if metrics[0]["step"] >= 8 and dead < times:
                (graves / str(dead)).touch()
                os.kill(os.getpid(), signal.SIGKILL)

    alone = named(job, name, root)
    graves = root / f"{name}-graves"
    graves.mkdir()
    ended = run(program(alone, root, [Fatal()]), limit=400, cwd=ROOT)
    assert len(list(graves.iterdir())) == times
    return alone, ended


def test_a_killed_controller_is_replaced(job: TrainingJob, undisturbed: Running, root: Path) -> None:
    """Its workers end, what they held is free again, and the run is the same run."""
    trained, ended = orphaned(job, "orphaned", root, times=1)
    assert ended.returncode == 0, ended.stderr
    check_same(trained, undisturbed.result())


@pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults")
def test_a_controller_that_dies_again_and_again_is_one_error(job: TrainingJob, root: Path) -> None:
    # so long that workers which outlive their controller for a moment do not finish it
    longer = replace(job, train=replace(job.train, steps=2000))
    trained, ended = orphaned(longer, "hopeless", root, times=4)
    assert re.search(r"RuntimeError: t: Ray Train's controller, .*, died 4 times", ended.stderr)
    latest = saved.latest(Path(trained.output) / CHECKPOINTS)
    assert latest is not None and latest.step >= 8


@pytest.fixture(scope="module")
def killed(job: TrainingJob, root: Path) -> TrainingJob:
    """A run whose driver and whole Ray were killed after its second checkpoint, at step 8."""

    class Patient(TrainingJob):
        def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
            validate, checkpoints = super().validate(engine), Path(self.output) / CHECKPOINTS

            def check(model: SleepModel, level: int | None) -> float:
                while len(list(checkpoints.glob("checkpoint_2*"))) == 2:  # until it is killed
                    time.sleep(0.1)
                return validate(model, level)

            return check

    job = named(job, "killed", root)
    patient = Patient(**{field.name: getattr(job, field.name) for field in dataclasses.fields(TrainingJob)})
    checkpoints = Path(job.output) / CHECKPOINTS
    with Background(program(patient, root), cwd=ROOT) as process:
        try:
            process.until(lambda: _both_are_known(checkpoints), "a second checkpoint that is whole and known to Ray")
        finally:
            with suppress(psutil.NoSuchProcess):
                everyone = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                for each in everyone:
                    each.kill()
                psutil.wait_procs(everyone)  # one that lives on for a moment would still write
    assert not (Path(job.output) / MODEL).exists()
    return job


def _both_are_known(checkpoints: Path) -> bool:
    """Whether two checkpoints are whole, and Ray has them in its own list."""
    whole, snapshot = list(checkpoints.glob("checkpoint_*/worker-1.json")), checkpoints / RAY_SNAPSHOT
    known = snapshot.read_text() if snapshot.exists() else ""
    return len(whole) == 2 and all(file.parent.name in known for file in whole)


def test_a_killed_cluster_goes_on_from_before_a_torn_checkpoint(
    job: TrainingJob, killed: TrainingJob, undisturbed: Running
) -> None:
    """Another Ray goes on, though the last checkpoint and Ray's own list of them were torn as well."""
    checkpoints = Path(killed.output) / CHECKPOINTS
    fewer = replace(killed, output=f"{killed.output}-fewer", run=None)
    shutil.copytree(killed.output, fewer.output)
    latest = saved.latest(checkpoints)
    assert latest is not None and latest.step == 8
    for path in (latest.path / CHECKPOINT, checkpoints / RAY_SNAPSHOT):
        path.write_bytes(path.read_bytes()[:100])
    again = Running(killed)
    check_fewer_and_more(fewer, undisturbed.job)
    check_same(again.result(), undisturbed.result())


def check_fewer_and_more(job: TrainingJob, expected: TrainingJob) -> None:
    """What two workers left goes on with one, which is told to stop between two reports, and ends with two again."""
    asked: list[int] = []

    class Preempted(TrainingJob):
        def asked_to_stop(self) -> bool:
            asked.append(1)
            if len(asked) == 3:
                Path(f"{self.output}.stop").touch()
            return super().asked_to_stop()

    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(TrainingJob)}
    one = Preempted(**{**fields, "scale": Scale(workers=1), "stop": f"{job.output}.stop"})
    with pytest.raises(Stopped, match="stopped on request after saving a checkpoint"):
        Running(one).result()
    latest = saved.latest(Path(job.output) / CHECKPOINTS)
    assert latest is not None and (latest.step, latest.workers) == (11, 1)
    Running(job).result()
    got, wanted = (read_training(Path(each.output)).history for each in (job, expected))
    assert [(at.step, at.tokens, at.flops) for at in got] == [(at.step, at.tokens, at.flops) for at in wanted]
    assert [at.loss for at in got] == pytest.approx([at.loss for at in wanted], rel=LOSS_TOLERANCE)
    weights, others = (load(Path(each.output) / MODEL).state_dict() for each in (job, expected))
    for name, weight in weights.items():
        assert (others[name] - weight).norm() <= WEIGHT_TOLERANCE * weight.norm(), name
