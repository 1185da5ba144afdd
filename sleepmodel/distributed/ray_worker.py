"""What each worker of Ray Train does: the training loop on DeepSpeed, with checkpoints that Ray Train collects.

Every training starts workers as new processes, so what this module imports is waited for: no MLflow, no Ray Tune.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint
from ray.train.collective import broadcast_from_rank_zero

from datagen.files import write_error
from datagen.storage import as_path, in_store
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.checkpoints import SavedCheckpoint
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.training.loop import NonFiniteError, Save, train
from sleepmodel.training.progress import Progress, ProgressTicker

CHECKPOINTS = "checkpoints"
DIVERGED = "DIVERGED"  # the file that says why a run diverged
DRAIN_SECONDS = 2  # between two looks whether this node is to be taken away


class Stopped(RuntimeError):
    """A training stopped on request, or because a node of it is to be taken away, after it saved a checkpoint; or a
    search stopped on request."""


def run_worker(config: dict[str, TrainingJob]) -> None:
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
        return engine.any(job.asked_to_stop() or _draining(int(time.monotonic() / DRAIN_SECONDS)))

    with ExitStack() as held:
        found = _open_checkpoint(as_path(job.output) / CHECKPOINTS, engine.rank, held)
        if ticker:
            ticker.step(found[0].step if found else 0)
        resume = found[1] if found else None
        history = train(engine, job.rows(), job.train, job.validate(engine), report, resume, between)
    engine.finish(lambda model: job.finish(model, history))


def _open_checkpoint(directory: Path, rank: int, held: ExitStack) -> tuple[SavedCheckpoint, Path] | None:
    """The checkpoint from which all workers resume, and its local files, which `held` keeps; None if there is none."""
    # one worker chooses, so that all resume from the same one
    found = checkpoints.open_latest(directory, held, discard=True) if rank == 0 else None
    chosen = broadcast_from_rank_zero(found[0] if found else None)
    if found or chosen is None:
        return found
    # on a disk, the files are those that the first worker has verified
    files = held.enter_context(checkpoints.opened(chosen)) if in_store(chosen.path) else chosen.path
    return chosen, files


@functools.lru_cache(maxsize=1)
def _draining(tick: int) -> bool:
    """Whether this node is announced to Ray as one that will be taken away (`ray drain-node`, docs/cluster.md). Cached
    until the next tick."""
    # private, but what Ray Train's own watcher asks; the public way needs the dashboard
    return ray.get_runtime_context().get_node_id() in ray._private.state.state.get_draining_nodes()
