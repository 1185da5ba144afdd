"""Runs the training loop under Ray Train and DeepSpeed, on one worker or many, and resumes from the last checkpoint."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.config import FailureConfig  # ray.train types it as the old one
from ray.train.v2.api.exceptions import ControllerError

from datagen.files import write_error
from datagen.storage import as_path, for_ray, local_copy
from sleepmodel.config.training import check_compatible
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.distributed.job import TrainingJob, has_model
from sleepmodel.tracking.runs import ProgressLog
from sleepmodel.training.loop import NonFiniteError, Save, train
from sleepmodel.training.progress import Progress, ProgressTicker

RESTARTS = 3  # of a run whose worker died
CHECKPOINTS = "checkpoints"
# Ray's own list of a run's checkpoints: it is not written atomically, and Ray fails on an incomplete one
RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"
DIVERGED = "DIVERGED"  # the file that says why a run diverged
DRAIN_SECONDS = 2  # between two looks whether this node is to be taken away
RAY_TRAIN_SETTINGS = {
    # Ray's controller polls for reports at this interval, and a report blocks until it does
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # the patch prints the workers' output a second time
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # the start of Ray's watcher logs an error (ray-project/ray#53727) that no setting stops; `_draining` does its work
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


class Stopped(RuntimeError):
    """A training stopped on request, or because a node of it is to be taken away, after it saved a checkpoint."""


def _worker(config: dict[str, TrainingJob]) -> None:
    """The function of each Ray Train worker. It does not raise if the run diverged, as Ray would restart the run."""
    job = config["job"]
    try:
        _train(job)
    except NonFiniteError as error:
        if ray.train.get_context().get_world_rank() == 0:
            (as_path(job.output) / DIVERGED).write_text(str(error))
    except Stopped:  # `fit` finds no model, and raises it again or goes on on other nodes
        pass


def _train(job: TrainingJob) -> None:
    logging.getLogger().setLevel(logging.WARNING)  # Ray would log a second line for each report
    torch.set_num_threads(job.scale.cores)
    model = job.build()
    engine = DeepSpeedEngine(model, job.train, job.scale)
    ticker = ProgressTicker(job.watch, job.name, job.name, job.train.steps) if engine.rank == 0 else None
    curve = ProgressLog(job.store, job.run) if job.store and job.run and engine.rank == 0 else None

    def save_checkpoint(step: int, save: Save, metrics: dict[str, Any]) -> None:
        # each worker saves its own files, and Ray copies the files of all workers into one checkpoint
        with tempfile.TemporaryDirectory() as directory:
            save(Path(directory))
            checkpoints.write_manifest(Path(directory), engine.rank, step, job.scale)
            try:
                ray.train.report(metrics, checkpoint=Checkpoint(directory))
            except OSError as error:  # of copying the files to the root
                raise write_error(as_path(job.output) / CHECKPOINTS, error) from error

    def report(at: Progress, save: Save) -> None:
        if ticker:
            ticker.report(at)
        if curve:
            curve.log(at)
        save_checkpoint(at.step, save, asdict(at))
        if at.step < at.steps and must_stop():
            raise Stopped

    def between(step: int, save: Save) -> None:
        if ticker:
            ticker.step(step)
        if must_stop():
            save_checkpoint(step, save, {"step": step})
            raise Stopped

    def must_stop() -> bool:
        # one worker may see the reason a step before the others, or alone, but all must save at the same step
        return engine.mean(job.asked_to_stop() or _draining(int(time.monotonic() / DRAIN_SECONDS))) > 0

    # one worker chooses, so that all resume from the same checkpoint
    latest = checkpoints.latest(as_path(job.output) / CHECKPOINTS) if engine.rank == 0 else None
    latest = broadcast_from_rank_zero(latest)
    if ticker:
        ticker.step(latest.step if latest else 0)
    with local_copy(latest.path) if latest else nullcontext() as resume:
        history = train(engine, job.rows(), job.train, job.validate(), report, resume, between)
    engine.finish(lambda model: job.finish(model, history))


@functools.lru_cache(maxsize=1)
def _draining(tick: int) -> bool:
    """Whether this node is announced to Ray as one that will be taken away (`ray drain-node`, docs/cluster.md). Cached
    until the next tick."""
    # private, but what Ray Train's own watcher asks; the public way needs the dashboard
    return ray.get_runtime_context().get_node_id() in ray._private.state.state.get_draining_nodes()


def fit(job: TrainingJob, callbacks: Sequence[UserCallback] = ()) -> None:
    """Train a job under Ray Train, on the running Ray or a new local one, and write the model to `job.output`.

    callbacks: Ray Train's, which it calls with each report's `Progress` as a dict.

    Resumes from the last complete checkpoint there, also by itself after a worker died or a node was drained. Raises
    ValueError if workers of this scale cannot resume from it, NonFiniteError if the training diverged, Stopped if
    `job.stop` ended it early, TimeoutError if the cluster has no room for the workers for too long, as after a node was
    lost, and Ray's TrainingFailedError for any other error of a worker.
    """
    check_compatible(job.train, job.scale)
    for name, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ[START_SECONDS] = str(60 * job.scale.wait_minutes)
    output = as_path(job.output)
    diverged = output / DIVERGED
    diverged.unlink(missing_ok=True)
    while not has_model(output):
        if latest := checkpoints.prune(output / CHECKPOINTS):
            checkpoints.check_resumable(latest, job.scale)
        (output / CHECKPOINTS / RAY_SNAPSHOT).unlink(missing_ok=True)
        try:
            _trainer(job, callbacks).fit()
        except ControllerError as error:
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                raise TimeoutError(_waited_for(job)) from error
            raise
        if diverged.exists():
            raise NonFiniteError(diverged.read_text())
        if job.asked_to_stop() and not has_model(output):
            raise Stopped(f"{job.name}: stopped on request after saving a checkpoint; run the same command to resume")


def _trainer(job: TrainingJob, callbacks: Sequence[UserCallback]) -> TorchTrainer:
    scale = job.scale
    storage_path, storage_filesystem = for_ray(as_path(job.output))
    return TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=scale.workers, use_gpu=scale.gpu or False, resources_per_worker={"CPU": scale.cores}
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=storage_path,
            storage_filesystem=storage_filesystem,
            callbacks=[*callbacks],  # type: ignore[list-item]  # typed as the old RunConfig
            # by default Ray would try to start the workers again and again, for ever
            failure_config=FailureConfig(max_failures=RESTARTS, controller_failure_limit=0),
            checkpoint_config=CheckpointConfig(num_to_keep=checkpoints.KEPT),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # typed as the old RunConfig
        ),
    )


def _waited_for(job: TrainingJob) -> str:
    scale = job.scale
    worker = f"{scale.cores} core{'s' * (scale.cores > 1)}{' and a GPU' if scale.gpu else ''}"
    return (
        f"{job.name}: for scale.wait_minutes = {scale.wait_minutes} Ray had no room for {scale.workers} x {worker}: a "
        "node is lost, or others use it; add nodes, wait for the others, or raise scale.wait_minutes"
    )
