"""Which weights are trained, by which optimiser (Muon for the matrices of the blocks, AdamW for everything else), and
the learning-rate schedule."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from datagen.checks import require
from sleepmodel.config.training import TrainConfig
from sleepmodel.model import SleepModel

ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-8
_ADAM_NAMES = ("embed", "lm_head")


def freeze(model: SleepModel, trained: str) -> None:
    """Take the gradient from the weights that are not trained (see TrainConfig). Raises ValueError if none would be.
    Call it before an optimiser or DeepSpeed gets the weights."""
    if trained == "inserted":
        inserted = model.config.inserted
        require(bool(inserted), "trained", trained, "all for a model without inserted blocks")
        model.requires_grad_(False)
        for i in inserted:
            model.blocks[i].requires_grad_(True)
        if model.config.pass_embed:
            model.pass_embed.requires_grad_(True)


def split_parameters(model: nn.Module, optimizer: str = "muon") -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(Muon's parameters, AdamW's), of those that are trained. Muon gets all matrices except the embeddings and the
    readout; without it ("adamw") AdamW gets everything.

    This is the rule of DeepSpeed's `set_optimizer_flags`, which goes by the names of parameters and cannot be changed.
    """
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() >= 2 and not any(word in name for word in _ADAM_NAMES)
            (muon if matrix and optimizer == "muon" else adam).append(parameter)
    return muon, adam


def build_optimizers(model: nn.Module, config: TrainConfig) -> list[Optimizer]:
    """torch's AdamW and Muon (with Keller Jordan's scaling) for the trained weights, at their peak rates."""
    muon, adam = split_parameters(model, config.optimizer)
    decay = config.weight_decay
    optimizers: list[Optimizer] = []
    if adam:
        optimizers.append(AdamW(adam, lr=config.adam_lr, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=decay))
    if muon:
        optimizers.append(
            Muon(muon, lr=config.muon_lr, momentum=config.momentum, weight_decay=decay, adjust_lr_fn="original")
        )
    return optimizers


def peak_rates(optimizers: list[Optimizer]) -> list[float]:
    """The learning rate of each parameter group, in order."""
    return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]


def set_rates(optimizers: list[Optimizer], peaks: list[float], factor: float) -> None:
    """Set each parameter group's learning rate to its peak times `factor`."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, peak in zip(groups, peaks, strict=True):
        group["lr"] = peak * factor


def schedule(step: int, config: TrainConfig) -> float:
    """The factor on the peak rates at `step`, from 0: linear warm-up, constant, linear decay to 0."""
    warm = (step + 1) / config.warmup_steps if config.warmup_steps else 1.0
    tail = config.steps * config.decay_fraction
    cool = (config.steps - step) / tail if tail else 1.0
    return min(1.0, warm, cool)
