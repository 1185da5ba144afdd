"""Mixers of one's own, which tests name by their paths."""

from torch import Tensor, nn

from sleepmodel import ModelConfig
from sleepmodel.mixers.gated_delta import GatedDelta

DROPPING = "tests.sleepmodel.own_mixers:Dropping"


class Dropping(GatedDelta):
    """Gated delta without half of the values that it writes, in training."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(0.5)

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().rule(q, k, self.dropout(v), g, beta, state)

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        return super().write_rule(k, self.dropout(v), g, beta, state)
