"""The engine of the training loop, which computes and applies gradients: its interface, and one in plain PyTorch."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from datagen.checks import require
from datagen.files import replacing, sha256
from sleepmodel.config.training import CudaGraphs, Scale, TrainConfig, check_compatible
from sleepmodel.model import Output, SleepModel
from sleepmodel.training.cuda_graphs import GraphedUpdate, graphed
from sleepmodel.training.optim import build_optimizer, freeze, peak_rates, set_rates

CHECKPOINT, CHECKPOINT_SUM = "checkpoint.pt", "checkpoint.pt.sha256"  # of a model that is not partitioned
REMEDY = "resume from an earlier checkpoint"


class WeightedTraces(NamedTuple):
    """The traces of a micro-batch, int64 [B, P, T] as in SleepModel.forward, and what its mean loss counts for among
    the micro-batches of a step."""

    labels: Tensor
    weight: float


class Losses(NamedTuple):
    """The mean losses of a micro-batch, each times its weight. traces: None without traces."""

    answers: Tensor
    traces: Tensor | None = None

    def detached(self) -> Losses:
        return Losses(self.answers.detach(), None if self.traces is None else self.traces.detach())


class Engine(Protocol):
    """Computes and applies gradients: `LocalEngine`, or `DeepSpeedEngine` in sleepmodel/distributed/deepspeed.py."""

    model: SleepModel
    config: TrainConfig
    rank: int
    workers: int
    accumulation: int

    def backward(
        self,
        tokens: Tensor,
        loss_mask: Tensor,
        sleep_passes: int | None,
        weight: float,
        traces: WeightedTraces | None,
    ) -> Losses:
        """Forward and backward of one micro-batch. Its loss is that of the answers, times `weight`, and
        TrainConfig.trace_weight of that of the traces. The other arguments are as in SleepModel.forward, on the CPU."""

    def step(self, rate: float) -> Tensor:
        """Clip the gradient, step at `rate` times the peak rates, and clear the gradient. Returns its norm before
        clipping, a scalar on the model's device. A gradient that is not finite is not applied: the step is left out, or
        without ZeRO made with zeros where `reads_every_step` is false."""

    def sum(self, values: Tensor) -> Tensor:
        """The sums over the workers of each of `values`, which are on the model's device. Every worker must call it."""

    def save(self, directory: Path, state: dict[str, Any]) -> None:
        """Write weights, optimiser state and `state` to an empty directory."""

    def load(self, directory: Path) -> dict[str, Any]:
        """Restore what `save` wrote, and return its `state`. Raises FileNotFoundError if there is no checkpoint,
        ValueError if it is damaged."""


class LocalEngine:
    """An engine in plain PyTorch, in this process.

    accumulation, cuda_graphs: as in Scale. Raises ValueError if nothing of the model would be trained, with precision
    "bfloat16_weights", which only DeepSpeed does, with cuda_graphs "on" or "step" where there can be none, or as
    check_compatible.
    """

    rank, workers = 0, 1

    def __init__(
        self, model: SleepModel, config: TrainConfig, accumulation: int = 1, cuda_graphs: CudaGraphs = "off"
    ) -> None:
        allowed = "float32 or bfloat16 without DeepSpeed: train in a pipeline, or with `fit` or DeepSpeedEngine"
        require(config.precision in ("float32", "bfloat16"), "precision", config.precision, allowed)
        freeze(model, config.trained)
        model.truncation = config.truncation  # a model that was loaded has none
        self.model, self.config, self.accumulation = model, config, accumulation
        self.optimizer = build_optimizer(model, config)
        self.peaks = peak_rates(self.optimizer)
        scale = Scale(accumulation=accumulation, recompute=model.recompute, cuda_graphs=cuda_graphs)
        check_compatible(config, scale)
        self.forward = graphed(model, model, config, scale)
        self.captured = cuda_graphs == "step"
        self.update = self._update()

    def _update(self) -> Callable[[], Tensor]:
        return GraphedUpdate(self._apply, self.model.parameters()) if self.captured else self._apply

    def backward(
        self,
        tokens: Tensor,
        loss_mask: Tensor,
        sleep_passes: int | None = None,
        weight: float = 1.0,
        traces: WeightedTraces | None = None,
    ) -> Losses:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            losses = forward_losses(self.model, self.forward, tokens, loss_mask, sleep_passes, weight, traces)
            loss = whole_loss(losses, self.config)
        (loss / self.accumulation).backward()
        return losses.detached()

    def step(self, rate: float) -> Tensor:
        set_rates(self.optimizer, self.peaks, rate)
        norm = self.update()
        self.model.zero_grad()
        return norm

    def _apply(self) -> Tensor:
        norm = clip_gradient(self.model, self.config.grad_clip)
        if can_apply(self.model, norm, self.config):
            self.optimizer.step()
        return norm

    def sum(self, values: Tensor) -> Tensor:
        return values

    def save(self, directory: Path, state: dict[str, Any]) -> None:
        save_whole(self.model, self.optimizer, directory, state)
        with replacing(directory / CHECKPOINT_SUM) as fresh:
            fresh.write_text(sha256(directory / CHECKPOINT))

    def load(self, directory: Path) -> dict[str, Any]:
        verify_whole(directory)
        state = load_whole(self.model, self.optimizer, directory)
        self.update = self._update()  # a graph would go on with the optimiser's state of before
        return state


def forward_losses(
    model: SleepModel,
    forward: Callable[..., Output],
    tokens: Tensor,
    loss_mask: Tensor,
    sleep_passes: int | None,
    weight: float,
    traces: WeightedTraces | None,
) -> Losses:
    """The losses that Engine.backward returns, not yet detached. forward: as `graphed` returns it."""
    batch = tokens, loss_mask, sleep_passes, None if traces is None else traces.labels
    out = forward(*batch, plan=model.plan(*batch))
    trace_loss = None if traces is None or out.trace_loss is None else traces.weight * out.trace_loss
    return Losses(weight * out.loss, trace_loss)


def whole_loss(losses: Losses, config: TrainConfig) -> Tensor:
    """What is differentiated."""
    return losses.answers if losses.traces is None else losses.answers + config.trace_weight * losses.traces


def save_whole(model: SleepModel, optimizer: Optimizer, directory: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of a model whose weights and optimiser state are not partitioned, without its checksum. Raises
    OSError."""
    with replacing(directory / CHECKPOINT) as fresh:
        try:
            torch.save({"model": model.state_dict(), "optimizers": [optimizer.state_dict()], "state": state}, fresh)
        except RuntimeError as error:  # torch's form of an OSError
            raise OSError(str(error)) from error


def verify_whole(directory: Path) -> None:
    """Raise the errors of Engine.load unless what LocalEngine.save wrote is there and unchanged."""
    file, listed = directory / CHECKPOINT, directory / CHECKPOINT_SUM
    if not file.is_file() or not listed.is_file():
        raise FileNotFoundError(f"{directory}: no checkpoint here ({CHECKPOINT} and {CHECKPOINT_SUM})")
    if listed.read_bytes() != sha256(file).encode():
        raise ValueError(f"checkpoint {file}: changed since it was written (its sha256 differs); {REMEDY}")


def load_whole(model: SleepModel, optimizer: Optimizer, directory: Path) -> dict[str, Any]:
    """Restore what `save_whole` wrote, and return its `state`. Raises the errors of Engine.load, but does not look for
    changes: `verify_whole` does."""
    file = directory / CHECKPOINT
    if not file.is_file():
        raise FileNotFoundError(f"{directory}: no checkpoint here ({CHECKPOINT})")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint {file}: holds more than tensors and plain values; {REMEDY}") from error
    states = saved["optimizers"]
    if len(states) != 1:
        raise ValueError(f"checkpoint {file}: has {len(states)} optimisers, as versions before 0.2 wrote; begin anew")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(states[0])
    return dict(saved["state"])


def clip_gradient(model: SleepModel, limit: float) -> Tensor:
    """Clip the gradient to norm `limit` (0: do not clip) and return its norm before clipping."""
    return torch.nn.utils.clip_grad_norm_(model.parameters(), limit or math.inf)


def reads_every_step(model: SleepModel, config: TrainConfig) -> bool:
    """Whether a training reads the loss and the norm of each step at once: on a CPU, and with `skips`, which depend on
    them. On a GPU the host would wait for each step, so it reads them before it reports or saves."""
    return config.skips > 0 or next(model.parameters()).device.type == "cpu"


def can_apply(model: SleepModel, norm: Tensor, config: TrainConfig) -> bool:
    """Whether to apply a gradient of this norm. If the norm is not read, always: what is not finite becomes zero."""
    if reads_every_step(model, config):
        return bool(norm.isfinite())
    wrong = ~norm.isfinite()
    for weight in model.parameters():
        if weight.grad is not None:
            weight.grad.masked_fill_(wrong, 0.0)
    return True
