"""Ray Train and DeepSpeed around training.py: the same loop on one worker or many, resumed from its last checkpoint."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchTrainer
from torch import Tensor

from datagen.storage import as_path, for_ray, local_copy
from sleepmodel import checkpoints
from sleepmodel.config import Scale, TrainConfig, check_compatible
from sleepmodel.job import Job, has_model
from sleepmodel.model import SleepModel
from sleepmodel.optim import ADAM_BETAS, ADAM_EPS, peak_rates, set_rates
from sleepmodel.tracking import ProgressLog
from sleepmodel.training import NonFiniteError, Progress, Save, clip_gradient, load_whole, save_whole, train

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


def deepspeed_config(config: TrainConfig, scale: Scale) -> dict[str, Any]:
    """DeepSpeed's settings for these configs; docs/diary.md tells what each guards against."""
    return {
        "train_batch_size": config.batch_size,
        "gradient_accumulation_steps": scale.accumulation,
        # clipping is ours: DeepSpeed's default of 1.0 would clip Muon's update, not the gradient, from stage 1 on
        "gradient_clipping": 0.0,
        "optimizer": {
            "type": "Muon",
            "params": {
                "lr": config.muon_lr,
                "muon_lr": config.muon_lr,
                "adam_lr": config.adam_lr,
                "momentum": config.momentum,
                "weight_decay": config.weight_decay,
                "betas": list(ADAM_BETAS),
                "eps": ADAM_EPS,
                "torch_adam": True,
                "ns_method": "standard",
            },
        },
        "zero_optimization": {"stage": scale.zero_stage, "reduce_scatter": scale.zero_stage < 3},
        "torch_autocast": {"enabled": config.precision == "bfloat16", "dtype": "bfloat16"},
        "steps_per_print": 2**31 - 1,
    }


class DeepSpeedEngine:
    """training.Engine on DeepSpeed, in a process that Ray Train (or a test) has put into a process group."""

    def __init__(self, model: SleepModel, config: TrainConfig, scale: Scale) -> None:
        check_compatible(config, scale)
        deepspeed = _deepspeed(scale)
        self.config, self.scale, self.accumulation = config, scale, scale.accumulation
        settings = deepspeed_config(config, scale)
        self.engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=settings)
        self.model = model
        self.rank, self.workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.peaks = peak_rates([self.engine.optimizer])

    def backward(
        self, tokens: Tensor, loss_mask: Tensor, sleep_passes: int | None = None, weight: float = 1.0
    ) -> Tensor:
        loss = weight * self.engine(tokens.to(self.engine.device), loss_mask.to(self.engine.device), sleep_passes).loss
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
        return loss.detach()

    def step(self, rate: float) -> float:
        set_rates([self.engine.optimizer], self.peaks, rate)
        # without partitioning the averaged gradients lie in the parameters; with it DeepSpeed alone knows their norm
        norm = clip_gradient(self.model, self.config.grad_clip) if self.scale.zero_stage == 0 else None
        if norm is not None and not math.isfinite(norm):
            # what DeepSpeed does at the end of a step, but for the step
            self.engine.zero_grad()
            self.engine.micro_steps += 1
            return norm
        self.engine.step()
        return float(self.engine.get_global_grad_norm() or math.nan) if norm is None else norm

    def mean(self, value: float) -> float:
        total = torch.tensor(value, dtype=torch.float64, device=self.engine.device)
        torch.distributed.all_reduce(total)
        return float(total) / self.workers

    def save(self, directory: Path, state: dict[str, Any]) -> None:
        if self.scale.zero_stage > 0:
            self.engine.save_checkpoint(str(directory), tag="checkpoint", client_state=state)
        elif self.rank == 0:  # every worker holds the same: any number of them can go on from one copy
            save_whole(self.model, [self.engine.optimizer], directory, state)

    def load(self, directory: Path) -> dict[str, Any]:
        if self.scale.zero_stage == 0:
            return load_whole(self.model, [self.engine.optimizer], directory)
        path = None
        if (directory / "checkpoint").is_dir():
            path, state = self.engine.load_checkpoint(str(directory), tag="checkpoint")
        if path is None:  # also DeepSpeed's way to say that it could not read one
            raise FileNotFoundError(f"{directory}: DeepSpeed finds no checkpoint here")
        return dict(state)

    def whole_weights(self) -> Any:
        """A context in which the model's parameters are whole on every worker, also under ZeRO 3."""
        zero = _deepspeed(self.scale).zero
        return zero.GatheredParameters(list(self.model.parameters()), enabled=self.scale.zero_stage == 3)


def _deepspeed(scale: Scale) -> Any:
    """DeepSpeed, imported without its banner and without the minutes of compiling that CPU training does not need."""
    if not scale.compile:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    if not scale.gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed


def _worker(config: dict[str, Job]) -> None:
    """What each Ray Train worker runs. A run that diverged ends here, as Ray would only start it again to diverge."""
    job = config["job"]
    try:
        _train(job)
    except NonFiniteError as error:
        if ray.train.get_context().get_world_rank() == 0:
            (as_path(job.output) / DIVERGED).write_text(str(error))
    except Stopped:  # fit() sees that there is no model
        pass


def _train(job: Job) -> None:
    logging.getLogger().setLevel(logging.WARNING)  # Ray logs a line for each report, beside ours
    torch.set_num_threads(job.scale.cores)
    model = job.build()
    engine = DeepSpeedEngine(model, job.train, job.scale)
    curve = ProgressLog(job.store, job.run) if job.store and job.run and engine.rank == 0 else None

    def keep(step: int, save: Save, metrics: dict[str, float]) -> None:
        # each worker saves its own share; Ray copies them into one checkpoint and deletes nothing of ours
        with tempfile.TemporaryDirectory() as directory:
            save(Path(directory))
            checkpoints.seal(Path(directory), engine.rank, step, job.scale)
            ray.train.report(metrics, checkpoint=Checkpoint(directory))

    def report(at: Progress, save: Save) -> None:
        if engine.rank == 0:
            print(f"{job.name}  {at.line()}", flush=True)
        if curve:
            curve.log(at)
        keep(at.step, save, {"step": at.step, "accuracy": at.accuracy})
        if at.step < at.steps and asked_to_stop():
            raise Stopped

    def between(step: int, save: Save) -> None:
        if asked_to_stop():
            keep(step, save, {"step": step})
            raise Stopped

    def asked_to_stop() -> bool:
        # one worker may see it a step before the others, and all must save at the same step
        return job.stop is not None and engine.mean(job.asked_to_stop()) > 0

    # one worker looks, so that all go on from the same
    last = checkpoints.last(as_path(job.output) / CHECKPOINTS) if engine.rank == 0 else None
    last = broadcast_from_rank_zero(last)
    with local_copy(last.path) if last else nullcontext() as resume:
        history = train(engine, job.rows(), job.train, job.validate(), report, resume, between)
    with engine.whole_weights():
        if engine.rank == 0:
            job.finish(model, history)


def fit(job: Job) -> None:
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
    if last := checkpoints.clean(directory):
        checkpoints.check_resumable(last, scale)
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
