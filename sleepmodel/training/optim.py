"""Which weights are trained, by which optimiser (Muon for the matrices of the blocks, AdamW for everything else), and
the learning-rate schedule."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from datagen.checks import require
from sleepmodel.config.training import TrainConfig
from sleepmodel.model import SleepModel
from sleepmodel.training.muon import MuonAdamW

ADAM_BETAS = (0.9, 0.98)
ADAM_EPS = 1e-8
_ADAM_NAMES = ("embed", "lm_head")


def freeze(model: SleepModel, trained: str) -> None:
    """Take the gradient from the weights that are not trained (see TrainConfig), and give it back to those from which
    an earlier training took it. Weights that have none for another reason, as a mixer's constants, keep having none.

    Raises ValueError if no weights would be trained. Call it before an optimiser or DeepSpeed gets the weights.
    """
    inserted = model.config.inserted
    require(trained == "all" or bool(inserted), "trained", trained, "all for a model without inserted blocks")
    for name in model.resting:
        model.get_parameter(name).requires_grad_(True)
    own = (*(f"blocks.{i}." for i in inserted), "pass_embed")
    learning = [name for name, weight in model.named_parameters() if weight.requires_grad]
    model.resting = () if trained == "all" else tuple(name for name in learning if not name.startswith(own))
    for name in model.resting:
        model.get_parameter(name).requires_grad_(False)


def split_parameters(model: nn.Module, optimizer: str = "muon") -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(Muon's parameters, AdamW's), of those that are trained. Muon gets all matrices except the embeddings and the
    readout; without it ("adamw") AdamW gets everything. Raises ValueError where Muon would get a tensor of three
    dimensions or more.

    This is the rule of DeepSpeed's `set_optimizer_flags`, which goes by the names of parameters and cannot be changed.
    """
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.dim() >= 2 and not any(word in name for word in _ADAM_NAMES)
            if matrix and optimizer == "muon" and parameter.dim() > 2:
                raise ValueError(
                    f"{name} has the shape {list(parameter.shape)}: Muon takes matrices. View it as one, put `embed` "
                    "into its name, so that AdamW gets it, or set train.optimizer=adamw"
                )
            (muon if matrix and optimizer == "muon" else adam).append(parameter)
    return muon, adam


def build_optimizer(model: nn.Module, config: TrainConfig, capturable: bool | None = None) -> MuonAdamW:
    """The optimiser of the trained weights, at its peak rates. Move the model to its device before. A training in
    float32 orthogonalises in float32 too, since processors without bfloat16 emulate it, more than ten times slower.

    capturable: as in MuonAdamW; None: if the weights are on a GPU.
    """
    muon, adam = split_parameters(model, config.optimizer)
    return MuonAdamW(
        muon,
        adam,
        muon_lr=config.muon_lr,
        adam_lr=config.adam_lr,
        momentum=config.momentum,
        betas=ADAM_BETAS,
        eps=ADAM_EPS,
        weight_decay=config.weight_decay,
        muon_dtype=torch.float32 if config.precision == "float32" else torch.bfloat16,
        capturable=any(weight.is_cuda for weight in (*muon, *adam)) if capturable is None else capturable,
    )


def peak_rates(optimizer: Optimizer) -> list[float]:
    """The learning rate of each parameter group, in order."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def set_rates(optimizer: Optimizer, peaks: list[float], factor: float) -> None:
    """Set each parameter group's learning rate to its peak times `factor`. If it is a tensor, the tensor is changed."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(peak * factor)
        else:
            group["lr"] = peak * factor


def schedule(step: int, config: TrainConfig) -> float:
    """The factor on the peak rates at `step`, from 0: linear warm-up, constant, linear decay to 0."""
    warm = (step + 1) / config.warmup_steps if config.warmup_steps else 1.0
    tail = config.steps * config.decay_fraction
    cool = (config.steps - step) / tail if tail else 1.0
    return min(1.0, warm, cool)
