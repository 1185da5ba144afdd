"""DeepSpeed as an engine of the training loop, with the settings under which it computes the same as plain PyTorch."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from datagen.checks import require
from sleepmodel.config.training import AUTO, BFLOAT16_WEIGHTS, Scale, TrainConfig, check_compatible
from sleepmodel.model import SleepModel
from sleepmodel.training.cuda_graphs import graphed
from sleepmodel.training.engine import (
    Losses,
    WeightedTraces,
    can_apply,
    clip_gradient,
    forward_losses,
    load_whole,
    save_whole,
    whole_loss,
)
from sleepmodel.training.optim import ADAM_BETAS, ADAM_EPS, build_optimizer, freeze, peak_rates, set_rates


def deepspeed_config(config: TrainConfig, scale: Scale) -> dict[str, Any]:
    """DeepSpeed's settings for these configs; docs/diary.md gives the reason for each. Its optimiser is for ZeRO stage
    1 or higher alone."""
    allowed = "float32, bfloat16 or bfloat16_weights, which a pipeline has chosen by then"
    require(config.precision != AUTO, "precision", config.precision, allowed)
    adam = {"weight_decay": config.weight_decay, "betas": list(ADAM_BETAS), "eps": ADAM_EPS, "torch_adam": True}
    muon = {"muon_lr": config.muon_lr, "adam_lr": config.adam_lr, "momentum": config.momentum, "ns_method": "standard"}
    optimizers = {
        "muon": {"type": "Muon", "params": {"lr": config.muon_lr, **adam, **muon}},
        "adamw": {"type": "AdamW", "params": {"lr": config.adam_lr, **adam}},
    }
    return {
        "train_batch_size": config.batch_size,
        "gradient_accumulation_steps": scale.accumulation,
        # `step` clips: DeepSpeed's default of 1.0 would clip Muon's update, not the gradient, from stage 1 on
        "gradient_clipping": 0.0,
        **({"optimizer": optimizers[config.optimizer]} if scale.zero_stage > 0 else {}),
        "zero_optimization": {"stage": scale.zero_stage, "reduce_scatter": scale.zero_stage < 3},
        "torch_autocast": {"enabled": config.precision == "bfloat16", "dtype": "bfloat16"},
        "bf16": {"enabled": config.precision == BFLOAT16_WEIGHTS},
        "steps_per_print": 2**31 - 1,
        # it synchronises with the GPU twice a step
        "timers": {"throughput": {"enabled": False}},
    }


class DeepSpeedEngine:
    """An engine on DeepSpeed. The process must be in a process group, which Ray Train (or a test) creates."""

    def __init__(self, model: SleepModel, config: TrainConfig, scale: Scale) -> None:
        check_compatible(config, scale)
        deepspeed = _deepspeed(scale)
        self.config, self.scale, self.accumulation = config, scale, scale.accumulation
        settings = deepspeed_config(config, scale)
        freeze(model, config.trained)
        model.truncation = config.truncation  # as in LocalEngine
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        # without partitioning, the plain loop's optimiser, built when DeepSpeed has moved the model to its device
        own = (lambda _: build_optimizer(model, config)) if scale.zero_stage == 0 else None
        self.engine, *_ = deepspeed.initialize(model=model, model_parameters=trained, optimizer=own, config=settings)
        if config.precision == BFLOAT16_WEIGHTS and scale.zero_stage == 0:
            # DeepSpeed has made a step on zero gradients: AdamW counted it, and weight decay changed the masters
            self.engine.optimizer.state.clear()
            self.engine.optimizer.refresh_fp32_params()
        self.model = model
        self.rank, self.workers = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.hosts = torch.distributed.new_group(backend="gloo")
        self.peaks = peak_rates(self.engine.optimizer)
        self.forward = graphed(model, self.engine, config, scale)

    def backward(
        self,
        tokens: Tensor,
        loss_mask: Tensor,
        sleep_passes: int | None = None,
        weight: float = 1.0,
        traces: WeightedTraces | None = None,
    ) -> Losses:
        losses = forward_losses(self.model, self.forward, tokens, loss_mask, sleep_passes, weight, traces)
        self.engine.backward(whole_loss(losses, self.config))
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()
        return losses.detached()

    def step(self, rate: float) -> Tensor:
        set_rates(self.engine.optimizer, self.peaks, rate)
        # without partitioning, each parameter has its averaged gradient; with it only DeepSpeed knows their norm
        norm = clip_gradient(self.model, self.config.grad_clip) if self.scale.zero_stage == 0 else None
        if norm is not None and not can_apply(self.model, norm, self.config):
            # skip the batch: do only what DeepSpeed does after applying a step
            self.engine.zero_grad()
            self.engine.micro_steps += 1
            return norm
        self.engine.step()
        if norm is None:
            found = self.engine.get_global_grad_norm()
            return torch.full((), math.nan if found is None else float(found), device=self.engine.device)
        return norm

    def sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    def any(self, here: bool) -> bool:
        """Whether `here` is true on any worker. Every worker must call it. The hosts ask each other, so that none waits
        for its GPU."""
        found = torch.tensor(int(here))
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, self.hosts)
        return bool(found)

    def save(self, directory: Path, state: dict[str, Any]) -> None:
        """As Engine.save, but without checksums: checkpoints.py lists those of all files."""
        if self.scale.zero_stage > 0:
            self.engine.save_checkpoint(str(directory), tag="checkpoint", client_state=state)
        elif self.rank == 0:  # all workers hold the same, so any number of workers can resume from one copy
            save_whole(self.model, self.engine.optimizer, directory, state)

    def load(self, directory: Path) -> dict[str, Any]:
        """As Engine.load, but it finds no damage: checkpoints.py has verified the files before."""
        if self.scale.zero_stage == 0:
            return load_whole(self.model, self.engine.optimizer, directory)
        path = None
        if (directory / "checkpoint").is_dir():
            path, state = self.engine.load_checkpoint(str(directory), tag="checkpoint")
        if path is None:  # DeepSpeed also returns None if it cannot read the checkpoint
            raise FileNotFoundError(f"{directory}: DeepSpeed finds no checkpoint here")
        return dict(state)

    def finish(self, use: Callable[[SleepModel], None]) -> None:
        """Call `use` on worker 0 with the model and its complete weights, in float32. Every worker must call it."""
        with _deepspeed(self.scale).zero.GatheredParameters(
            list(self.model.parameters()), enabled=self.scale.zero_stage == 3
        ):
            model = self._in_float32() if self.config.precision == BFLOAT16_WEIGHTS else self.model
            if self.rank == 0:
                use(model)

    def _in_float32(self) -> SleepModel:
        """On worker 0, a copy of the model on the CPU, with the float32 masters of what is trained."""
        weights = {}
        for name, weight in self.model.named_parameters():
            master = self._master(weight)  # a collective, which every worker must call
            if self.rank == 0:
                weights[name] = master.detach().float().cpu()
        model = SleepModel.without_weights(self.model.config)
        model.license = self.model.license
        if self.rank == 0:
            buffers = {name: value.cpu() for name, value in self.model.state_dict().items() if name not in weights}
            model.load_state_dict(weights | buffers, assign=True)
        return model

    def _master(self, weight: Tensor) -> Tensor:
        """The float32 original of a bfloat16 weight, or the weight itself if it is not trained."""
        if not weight.requires_grad:
            return weight
        if self.scale.zero_stage > 0:
            return cast(Tensor, _deepspeed(self.scale).utils.safe_get_full_fp32_param(weight))
        wrapped = self.engine.optimizer
        pairs = zip(chain(*wrapped.fp16_groups), chain(*wrapped.fp32_groups), strict=True)
        return next(master for low, master in pairs if low is weight)


def _deepspeed(scale: Scale) -> Any:
    """Import DeepSpeed without its banner, without the minutes of compilation that a CPU does not need, and without
    MLflow, which its autotuner would import: a second for which each training would wait."""
    if not scale.compile:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        _keep_dynamo_out()
    if not scale.gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    hidden = {} if "mlflow" in sys.modules else {"mlflow": None}  # None: `import` says that there is no such module
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        import deepspeed
    finally:
        for name in hidden:
            del sys.modules[name]
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")
    return deepspeed


def _keep_dynamo_out() -> None:
    """Keep torch's optimisers from importing torch._dynamo, only to have it leave four of their methods alone: more
    than a second for which each training would wait. Without that attribute, torch imports it all the same."""
    for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        plain = getattr(Optimizer, method).__wrapped__
        vars(plain).setdefault("__dynamo_disable", plain)
