"""What computes and applies gradients: the protocol, and plain PyTorch in one process."""

from __future__ import annotations

import hashlib
import math
import pickle
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from sleepmodel.config import TrainConfig
from sleepmodel.model import SleepModel
from sleepmodel.training.optim import build_optimizers, peak_rates, set_rates

CHECKPOINT, CHECKPOINT_SUM = "checkpoint.pt", "checkpoint.pt.sha256"  # of a model that is whole in one process


class Engine(Protocol):
    """What computes and applies gradients: `LocalEngine` here, DeepSpeed's in distributed.py."""

    model: SleepModel
    rank: int
    workers: int
    accumulation: int

    def backward(
        self, tokens: Tensor, loss_mask: Tensor, sleep_passes: int | None, weight: float, eviction: str | None
    ) -> Tensor:
        """Forward and backward of one micro-batch, as SleepModel.forward; its mean loss times `weight`."""

    def step(self, rate: float) -> float:
        """Clip the gradient, step at `rate` times the peak rates, clear the gradient; returns its norm before clipping.
        A gradient that is not finite is not applied, except from ZeRO 1 on."""

    def mean(self, value: float) -> float:
        """The mean of each worker's value."""

    def save(self, directory: Path, state: dict[str, Any]) -> None:
        """Write weights, optimiser and `state` into an empty directory."""

    def load(self, directory: Path) -> dict[str, Any]:
        """The inverse of `save`; returns its `state`. Raises FileNotFoundError where nothing can be read, ValueError
        where it is damaged."""


class LocalEngine:
    """Plain PyTorch in this process."""

    rank, workers = 0, 1

    def __init__(self, model: SleepModel, config: TrainConfig, accumulation: int = 1) -> None:
        self.model, self.config, self.accumulation = model, config, accumulation
        self.optimizers = build_optimizers(model, config)
        self.peaks = peak_rates(self.optimizers)

    def backward(
        self,
        tokens: Tensor,
        loss_mask: Tensor,
        sleep_passes: int | None = None,
        weight: float = 1.0,
        eviction: str | None = None,
    ) -> Tensor:
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            loss = weight * self.model(tokens.to(device), loss_mask.to(device), sleep_passes, eviction).loss
        (loss / self.accumulation).backward()
        return loss.detach()

    def step(self, rate: float) -> float:
        norm = clip_gradient(self.model, self.config.grad_clip)
        if math.isfinite(norm):
            set_rates(self.optimizers, self.peaks, rate)
            for optimizer in self.optimizers:
                optimizer.step()
        self.model.zero_grad()
        return norm

    def mean(self, value: float) -> float:
        return value

    def save(self, directory: Path, state: dict[str, Any]) -> None:
        save_whole(self.model, self.optimizers, directory, state)

    def load(self, directory: Path) -> dict[str, Any]:
        return load_whole(self.model, self.optimizers, directory)


def save_whole(model: SleepModel, optimizers: list[Optimizer], directory: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of a model whose weights and optimisers are not partitioned."""
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": states, "state": state}, directory / CHECKPOINT)
    (directory / CHECKPOINT_SUM).write_text(_sum_of(directory / CHECKPOINT))


def load_whole(model: SleepModel, optimizers: list[Optimizer], directory: Path) -> dict[str, Any]:
    """The inverse of `save_whole`. Raises as Engine.load."""
    file, listed = directory / CHECKPOINT, directory / CHECKPOINT_SUM
    if not file.is_file() or not listed.is_file():
        raise FileNotFoundError(f"{directory}: no checkpoint here ({CHECKPOINT} and {CHECKPOINT_SUM})")
    remedy = "go on from an earlier checkpoint"
    if listed.read_bytes() != _sum_of(file).encode():
        raise ValueError(f"checkpoint {file}: changed since it was written (its sha256 differs); {remedy}")
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"checkpoint {file}: holds more than tensors and plain values; {remedy}") from error
    model.load_state_dict(saved["model"])
    for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return dict(saved["state"])


def _sum_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def clip_gradient(model: SleepModel, limit: float) -> float:
    """Scale the gradient down to norm `limit` (0: leave it) and return its norm before."""
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit or math.inf))
