"""Mixers of one's own, which tests name by their paths."""

import torch
from torch import Tensor, nn

from sleepmodel import ModelConfig
from sleepmodel.mixers.gated_delta import GatedDelta

DROPPING = "tests.sleepmodel.own_mixers:Dropping"
BUFFERED = "tests.sleepmodel.own_mixers:Buffered"
SAVED = ("calls", "mask", "scale")  # the buffers of Buffered that are saved


class Dropping(GatedDelta):
    """Gated delta without half of the values that it writes, in training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(0.5)

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().rule(q, k, self.dropout(v), g, beta, state)

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        return super().write_rule(k, self.dropout(v), g, beta, state)


class Buffered(GatedDelta):
    """Gated delta that weighs its values by tensors that are no weights: saved ones of several dtypes, one with an
    infinity, one that is not saved, and one that torch does not know of."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        self.register_buffer("scale", torch.linspace(0.5, 1.5, config.value_dim, dtype=torch.float64))
        self.register_buffer("unsaved", torch.linspace(1.5, 0.5, config.value_dim), persistent=False)
        self.plain = torch.full((config.value_dim,), 0.5)

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().rule(q, k, self.weighed(v), g, beta, state)

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().write_rule(k, self.weighed(v), g, beta, state)

    def weighed(self, v: Tensor) -> Tensor:
        return (v * self.scale * self.unsaved * self.plain * self.mask.exp()[0]).to(v.dtype)
