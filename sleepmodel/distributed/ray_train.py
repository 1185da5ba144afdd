"""Runs the training loop under Ray Train and DeepSpeed, on one worker or many, and resumes from the last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray.exceptions import RayTaskError
from ray.train import CheckpointConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.config import FailureConfig  # ray.train types it as the old one
from ray.train.v2.api.exceptions import ControllerError

from datagen.storage import as_path, for_ray, remove_tree
from sleepmodel.config.training import check_compatible
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.job import TrainingJob, has_model, read_training
from sleepmodel.distributed.ray_controller import DIED, WarmTrainer
from sleepmodel.distributed.ray_worker import CHECKPOINTS, DIVERGED, Stopped, run_worker
from sleepmodel.tracking.runs import ProgressLog, send_curve
from sleepmodel.training.loop import NonFiniteError
from sleepmodel.training.progress import Progress

RESTARTS = 3  # of a run whose worker, or Ray Train's controller, died
# Ray's own list of a run's checkpoints: it is not written atomically, and Ray fails on an incomplete one
RAY_SNAPSHOT = "checkpoint_manager_snapshot.json"
RAY_TRAIN_SETTINGS = {
    # Ray's controller polls for reports at this interval, and a report blocks until it does
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # the patch prints the workers' output a second time
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # the start of Ray's watcher logs an error (ray-project/ray#53727) that no setting stops; `_draining` does its work
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
START_SECONDS = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


def fit(job: TrainingJob, callbacks: Sequence[UserCallback] = ()) -> None:
    """Train a job under Ray Train, on the running Ray or a new local one, and write the model to `job.output`.

    callbacks: Ray Train's, which it calls with each report's `Progress` as a dict.

    Resumes from the last complete checkpoint there, also by itself after a worker or Ray Train's controller died or a
    node was drained. Raises ValueError if workers of this scale cannot resume from it, NonFiniteError if the training
    diverged, Stopped if `job.stop` ended it early, TimeoutError if the cluster has no room for the workers for too
    long, as after a node was lost, RuntimeError if the controller died again and again, and Ray's TrainingFailedError
    for any other error of a worker. The checkpoints of a finished training are removed.
    """
    check_compatible(job.train, job.scale)
    for name, value in RAY_TRAIN_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ[START_SECONDS] = str(60 * job.scale.wait_minutes)
    output = as_path(job.output)
    diverged = output / DIVERGED
    diverged.unlink(missing_ok=True)
    deaths = 0  # of controllers
    while not has_model(output):
        checkpoints.prune(output / CHECKPOINTS)
        checkpoints.check_resumable(output / CHECKPOINTS, job.scale)
        (output / CHECKPOINTS / RAY_SNAPSHOT).unlink(missing_ok=True)
        try:
            _trainer(job, callbacks).fit()
        except ControllerError as error:
            if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
                raise TimeoutError(_waited_for(job)) from error
            raise
        except DIED as error:
            if isinstance(error, RayTaskError):  # raised in a controller that lives
                raise
            deaths += 1
            if deaths > RESTARTS:
                raise RuntimeError(
                    f"{job.name}: Ray Train's controller, a process on this node, died {deaths} times, as of a signal "
                    f"or of no memory; look for the cause in Ray's logs. It had told Ray: {error}"
                ) from error
            print(f"{job.name}: Ray Train's controller died; starting again from the last checkpoint", flush=True)
            continue
        if diverged.exists():
            raise NonFiniteError(diverged.read_text())
        if job.asked_to_stop() and not has_model(output):
            raise Stopped(f"{job.name}: stopped on request after saving a checkpoint; run the same command to resume")
    if (output / CHECKPOINTS).is_dir():
        remove_tree(output / CHECKPOINTS)
    if job.store and job.run:
        # Ray Train drops reports that its controller had not read when a worker died
        with suppress(ConnectionError):  # the record beside the model has the curve
            send_curve(job.store, job.run, read_training(output).history)


class _LogCurve(UserCallback):
    """Logs a training's curve to its MLflow run, in the controller, so that its workers import no MLflow."""

    def __init__(self, log: ProgressLog) -> None:
        self.log = log

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if "accuracy" in metrics[0]:  # not where it only saves to stop
            self.log.log(Progress(**metrics[0]))


def _trainer(job: TrainingJob, callbacks: Sequence[UserCallback]) -> WarmTrainer:
    scale = job.scale
    if job.store and job.run:
        callbacks = (_LogCurve(ProgressLog(job.store, job.run)), *callbacks)
    storage_path, storage_filesystem = for_ray(as_path(job.output))
    return WarmTrainer(
        run_worker,
        train_loop_config={"job": replace(job, store=None, run=None)},
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
    return (
        f"{job.name}: for scale.wait_minutes = {scale.wait_minutes} Ray had no room for {scale.workers} x "
        f"{scale.worker_in_words}: a node is lost, or others use it; add nodes, wait for the others, or raise "
        "scale.wait_minutes"
    )
