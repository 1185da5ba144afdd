"""Ray Train and DeepSpeed around training.py: the same loop on one worker or many, resumed from its last checkpoint."""

from __future__ import annotations

import logging
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer

from datagen.storage import as_path, for_ray, local_copy
from sleepmodel.config import check_compatible
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.distributed.job import TrainingJob, has_model
from sleepmodel.tracking.runs import ProgressLog
from sleepmodel.training.loop import NonFiniteError, Save, train
from sleepmodel.training.progress import Progress, ProgressTicker

RESTARTS = 3
CHECKPOINTS = "checkpoints"
# what Ray itself knows of a run's checkpoints; it is not written in one step, and Ray refuses a torn one
RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"
DIVERGED = "DIVERGED"  # why a run stopped for good
RAY_TRAIN_SETTINGS = {
    # Ray's controller looks for reports at this interval, and a report waits for it
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # it prints what the workers print a second time
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # its start prints an error of Ray's own (ray-project/ray#53727)
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class Stopped(RuntimeError):
    """A training was asked to stop, and has saved what it needs to go on."""


def _worker(config: dict[str, TrainingJob]) -> None:
    """What each Ray Train worker runs. A run that diverged ends here, as Ray would only start it again to diverge."""
    job = config["job"]
    try:
        _train(job)
    except NonFiniteError as error:
        if ray.train.get_context().get_world_rank() == 0:
            (as_path(job.output) / DIVERGED).write_text(str(error))
    except Stopped:  # fit() sees that there is no model
        pass


def _train(job: TrainingJob) -> None:
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs a line for each report, beside ours
    torch.set_num_threads(job.scale.cores)
    model = job.build()
    engine = DeepSpeedEngine(model, job.train, job.scale)
    ticker = ProgressTicker(job.watch, job.name, job.name, job.train.steps) if engine.rank == 0 else None
    curve = ProgressLog(job.store, job.run) if job.store and job.run and engine.rank == 0 else None

    def keep(step: int, save: Save, metrics: dict[str, float]) -> None:
        # each worker saves its own share; Ray copies them into one checkpoint and deletes nothing of ours
        with tempfile.TemporaryDirectory() as directory:
            save(Path(directory))
            checkpoints.write_manifest(Path(directory), engine.rank, step, job.scale)
            ray.train.report(metrics, checkpoint=Checkpoint(directory))

    def report(at: Progress, save: Save) -> None:
        if ticker:
            ticker.report(at)
        if curve:
            curve.log(at)
        keep(at.step, save, {"step": at.step, "accuracy": at.accuracy})
        if at.step < at.steps and asked_to_stop():
            raise Stopped

    def between(step: int, save: Save) -> None:
        if ticker:
            ticker.step(step)
        if asked_to_stop():
            keep(step, save, {"step": step})
            raise Stopped

    def asked_to_stop() -> bool:
        # one worker may see it a step before the others, and all must save at the same step
        return job.stop is not None and engine.mean(job.asked_to_stop()) > 0

    # one worker looks, so that all go on from the same
    latest = checkpoints.latest(as_path(job.output) / CHECKPOINTS) if engine.rank == 0 else None
    latest = broadcast_from_rank_zero(latest)
    if ticker:
        ticker.step(latest.step if latest else 0)
    with local_copy(latest.path) if latest else nullcontext() as resume:
        history = train(engine, job.rows(), job.train, job.validate(), report, resume, between)
    with engine.whole_weights():
        if engine.rank == 0:
            job.finish(model, history)


def fit(job: TrainingJob) -> None:
    """Train a job under Ray Train on the running Ray, or on a local one that is started; it leaves its model in
    `job.output`. Continues from the last whole checkpoint there, also by itself after a worker died.

    Raises ValueError where the checkpoints are of another scale that this one cannot continue, NonFiniteError
    where the training diverged, Stopped where `job.stop` ended it early, and what else it raised as Ray's
    TrainingFailedError.
    """
    check_compatible(job.train, job.scale)
    for name, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    scale, output = job.scale, as_path(job.output)
    directory = output / CHECKPOINTS
    storage_path, storage_filesystem = for_ray(output)
    if latest := checkpoints.prune(directory):
        checkpoints.check_resumable(latest, scale)
    (directory / RAY_SNAPSHOT).unlink(missing_ok=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=scale.workers, use_gpu=scale.gpu or False, resources_per_worker={"CPU": scale.cores}
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=storage_path,
            storage_filesystem=storage_filesystem,
            failure_config=FailureConfig(max_failures=RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=checkpoints.KEPT),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # typed as the old RunConfig
        ),
    )
    diverged = output / DIVERGED
    diverged.unlink(missing_ok=True)
    trainer.fit()
    if diverged.exists():
        raise NonFiniteError(diverged.read_text())
    if not has_model(output):
        raise Stopped(f"{job.name}: asked to stop, and saved for the next run of the same command")
