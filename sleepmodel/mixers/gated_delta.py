"""Mixers with fast weights, one class per update rule: gated delta, delta, linear (Hebbian)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config.model import ModelConfig
from sleepmodel.mixers.base import Mixer, Span, zero_linear
from sleepmodel.ops.gated_delta import chunk_length, gated_delta_rule, gated_delta_write
from sleepmodel.ops.hebbian import hebbian_rule, hebbian_write

INITIAL_DECAY = 0.98


class GatedDelta(Mixer):
    """Gated DeltaNet's fast weights (paper, "The mechanism"). The state is S, [B, H, K, V], always float32 or wider.

    beta = eta * sigmoid(w_beta x + b), alpha = exp(-softplus(w_decay x + c)); no short convolution. A pad has beta = 0
    and alpha = 1. Each pass of a sleep begins with the state that the previous pass left.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads, key_dim, value_dim = config.d_model, config.fast_heads, config.key_dim, config.value_dim
        self.heads, self.key_dim, self.value_dim, self.eta = heads, key_dim, value_dim, config.fast_weight_lr
        self.q, self.k = (nn.Linear(width, heads * key_dim, bias=False) for _ in range(2))
        self.v, self.gate = (nn.Linear(width, heads * value_dim, bias=False) for _ in range(2))
        self.beta, self.decay = (nn.Linear(width, heads) for _ in range(2))
        nn.init.zeros_(self.beta.bias)
        nn.init.constant_(self.decay.bias, math.log(math.expm1(-math.log(INITIAL_DECAY))))
        self.norm = nn.RMSNorm(value_dim)
        self.out = zero_linear(heads * value_dim, width)

    def keeps_state(self, eviction: str) -> bool:
        return True

    def initial_state(self, batch: int) -> Any:
        """Zeros [batch, H, K, V], float32 (float64 in a float64 model)."""
        weight = self.out.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return weight.new_zeros(batch, self.heads, self.key_dim, self.value_dim, dtype=dtype)

    def log_decay(self, x: Tensor) -> Tensor:
        """log alpha, [B, T, H]."""
        return -F.softplus(self.decay(x))

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs and the new state; arguments and result as in `gated_delta_rule`."""
        return gated_delta_rule(q, k, v, g, beta, state)

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        """The new state of `rule`, without the outputs."""
        return gated_delta_write(k, v, g, beta, state)

    def forward(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        return self._read(x, self.v(x), state, span)

    def write(self, x: Tensor, state: Any, span: Span) -> Any:
        return self.write_rule(*self._write_inputs(x, self.v(x), span), state)

    def begin_pass(self, state: Any) -> Any:
        return state

    def evict(self, state: Any, length: Tensor | int, eviction: str, earlier: Any = None) -> Any:
        return state

    def straight_through(self, before: Any, after: Any) -> Any:
        return after + (before - before.detach())

    def _read(self, x: Tensor, v: Tensor, state: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        q = F.normalize(F.silu(self.q(x)).unflatten(-1, (self.heads, -1)), dim=-1)
        o, state = self.rule(q, *self._write_inputs(x, v, span), state)
        return self.out((self.norm(o) * F.silu(self.gate(x).unflatten(-1, (self.heads, -1)))).flatten(2)), state

    def _write_inputs(self, x: Tensor, v: Tensor, span: Span) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k, v = (F.silu(y).unflatten(-1, (self.heads, -1)) for y in (self.k(x), v))
        g, beta = self.log_decay(x), self.eta * torch.sigmoid(self.beta(x))
        if span.real is not None:
            g, beta = (y * span.real.unsqueeze(-1) for y in (g, beta))
        return F.normalize(k, dim=-1), v, g, beta

    def _correction_flops(self, chunk: int) -> int:
        # per token and head: k k^T, k S and the solve
        return 2 * chunk * self.key_dim + 2 * self.key_dim * self.value_dim + chunk * self.value_dim

    def write_flops(self, tokens: int) -> int:
        width, projected = self.out.out_features, self.key_dim + self.value_dim + 2
        products = 2 * self.key_dim * self.value_dim + self._correction_flops(min(tokens, chunk_length(tokens)))
        return tokens * self.heads * (2 * width * projected + products)

    def flops(self, tokens: int, kept: int) -> int:
        width, projected = self.out.out_features, self.key_dim + 2 * self.value_dim
        chunk = min(tokens, chunk_length(tokens))
        reads = 2 * self.key_dim * self.value_dim + 2 * chunk * (self.key_dim + self.value_dim)
        return self.write_flops(tokens) + tokens * self.heads * (2 * width * projected + reads)


class Delta(GatedDelta):
    """The delta rule (DeltaNet): GatedDelta without decay, alpha = 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.decay

    def log_decay(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:2], self.heads)

    def write_flops(self, tokens: int) -> int:
        return super().write_flops(tokens) - 2 * tokens * self.heads * self.out.out_features


class Linear(GatedDelta):
    """Hebbian writes with decay (Mamba-2's rule): GatedDelta without the delta correction."""

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return hebbian_rule(q, k, v, g, beta, state)

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        return hebbian_write(k, v, g, beta, state)

    def _correction_flops(self, chunk: int) -> int:
        return 0
