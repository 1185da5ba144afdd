"""Mixers with fast weights, one class per update rule: gated delta, delta, linear (Hebbian)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config.model import ModelConfig, check_convolution
from sleepmodel.mixers.base import Mixer, RMSNorm, Span, zero_linear
from sleepmodel.mixers.convolution import (
    ConvolvedState,
    convolve,
    latest,
    merge_tails,
    random_kernel,
    with_tail,
)
from sleepmodel.ops.gated_delta import chunk_length, gated_delta_rule, gated_delta_write
from sleepmodel.ops.hebbian import hebbian_rule, hebbian_write

INITIAL_DECAY = 0.98


class GatedDelta(Mixer):
    """Gated DeltaNet's fast weights (paper, "The mechanism"). The state is S, [B, H, K, V], always float32 or wider.

    beta = eta * sigmoid(w_beta x + b), alpha = exp(-softplus(w_decay x + c)). A pad has beta = 0 and alpha = 1. Each
    pass of a sleep begins with the state that the previous pass left.

    With `config.conv`, q, k and v each pass through a causal, depthwise convolution over the latest `conv` tokens, and
    the state is a ConvolvedState. At a border the inputs of the convolutions are treated like the KV cache: hard
    eviction drops them, as only the fast weights may cross, and sliding eviction keeps the latest. A further pass of a
    sleep sees only the window. Inputs before the first token are zero.
    """

    convolved: tuple[str, ...] = ("q", "k", "v")  # what has a learned kernel with `config.conv`

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads, key_dim, value_dim = config.d_model, config.fast_heads, config.key_dim, config.value_dim
        self.heads, self.key_dim, self.value_dim, self.eta = heads, key_dim, value_dim, config.fast_weight_lr
        self.q, self.k = (nn.Linear(width, heads * key_dim, bias=False) for _ in range(2))
        self.v, self.gate = (nn.Linear(width, heads * value_dim, bias=False) for _ in range(2))
        self.beta, self.decay = (nn.Linear(width, heads) for _ in range(2))
        nn.init.zeros_(self.beta.bias)
        nn.init.constant_(self.decay.bias, math.log(math.expm1(-math.log(INITIAL_DECAY))))
        self.norm = RMSNorm(value_dim)
        self.out = zero_linear(heads * value_dim, width)
        self.conv, self.kernel_widths = nn.ParameterDict(), dict[str, int]()  # by name, in the order q, k, v
        if config.conv is not None:
            for name in self.convolved:
                self.add_kernel(config, name, f"conv = {config.conv}", config.conv)
                self.conv[name] = random_kernel(config.conv, getattr(self, name).out_features)

    def add_kernel(self, config: ModelConfig, name: str, source: str, width: int) -> None:
        """Convolve `name`, one of q, k and v, with the kernel that `kernel` returns. source: what asks for it, for the
        error of a window that is too short."""
        check_convolution(config, source, width)  # here too, as a config does not know the subclasses that a path names
        self.kernel_widths[name] = width

    def keeps_state(self, eviction: str) -> bool:
        return True

    def initial_state(self, batch: int) -> Any:
        """Zeros [batch, H, K, V], float32 (float64 in a float64 model), and no inputs of convolutions."""
        weight = self.out.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return self._with_tail(weight.new_zeros(batch, self.heads, self.key_dim, self.value_dim, dtype=dtype))

    def log_decay(self, x: Tensor) -> Tensor:
        """log alpha, [B, T, H]."""
        return -F.softplus(self.decay(x))

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs and the new state; arguments and result as in `gated_delta_rule`."""
        return gated_delta_rule(q, k, v, g, beta, state)

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        """The new state of `rule`, without the outputs."""
        return gated_delta_write(k, v, g, beta, state)

    def kernel(self, name: str, x: Tensor) -> Tensor:
        """The kernel of q, k or v, as `convolve` takes it; x: [B, T, d]."""
        return self.conv[name].unflatten(0, (self.kernel_widths[name], -1))

    def forward(self, x: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        S, tail = state if self.kernel_widths else (state, None)
        found, tail = self._projected(x, tail, span, ("q", "k", "v"))
        q = _normalized(F.silu(found["q"]).unflatten(-1, (self.heads, -1)))
        o, S = self.rule(q, *self._write_inputs(x, found, span), S)
        y = self.out((self.norm(o) * F.silu(self.gate(x).unflatten(-1, (self.heads, -1)))).flatten(2))
        return y, self._with_tail(S, tail)

    def write(self, x: Tensor, state: Any, span: Span) -> Any:
        S, tail = state if self.kernel_widths else (state, None)
        found, tail = self._projected(x, tail, span, ("k", "v"))
        return self._with_tail(self.write_rule(*self._write_inputs(x, found, span), S), tail)

    def begin_pass(self, state: Any) -> Any:
        return self._with_tail(state.S) if self.kernel_widths else state

    def evict(self, state: Any, length: Tensor | int, eviction: str, earlier: Any = None) -> Any:
        if not self.kernel_widths:
            return state
        if eviction == "hard":
            return self.begin_pass(state)
        return state if earlier is None else state._replace(tail=merge_tails(state.tail, earlier.tail, length))

    def straight_through(self, before: Any, after: Any) -> Any:
        if self.kernel_widths:
            return after._replace(S=after.S + (before.S - before.S.detach()))
        return after + (before - before.detach())

    def _with_tail(self, S: Tensor, tail: Tensor | None = None) -> Any:
        """The state of these fast weights; tail: None is no inputs."""
        if not self.kernel_widths:
            return S
        if tail is None:
            channels = sum(getattr(self, name).out_features for name in self.kernel_widths)
            tail = self.out.weight.new_zeros(len(S), 0, channels)
        return ConvolvedState(S, tail)

    def _projected(
        self, x: Tensor, tail: Tensor | None, span: Span, names: tuple[str, ...]
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """The projections `names` of x, [B, T, H * size] each, after their convolutions, and the new tail."""
        found = {name: getattr(self, name)(x) for name in names if name not in self.kernel_widths}
        if tail is None:
            return found, None
        before, tails = max(self.kernel_widths.values()) - 1, []
        parts = tail.split([getattr(self, name).out_features for name in self.kernel_widths], -1)
        for (name, width), part in zip(self.kernel_widths.items(), parts, strict=True):
            # what is not asked for is needed only for the tail
            new = getattr(self, name)(x if name in names or span.real is not None else x[:, -before:])
            if span.real is not None:
                new = new * span.real.unsqueeze(-1)
            inputs = with_tail(part, new, before)
            if name in names:
                found[name] = convolve(inputs[:, before + 1 - width :], self.kernel(name, x))
            tails.append(latest(inputs, span, before))
        return found, torch.cat(tails, -1)

    def _write_inputs(self, x: Tensor, found: dict[str, Tensor], span: Span) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k, v = (F.silu(found[name]).unflatten(-1, (self.heads, -1)) for name in ("k", "v"))
        g, beta = self.log_decay(x), self.eta * torch.sigmoid(self.beta(x))
        if span.real is not None:
            g, beta = (y * span.real.unsqueeze(-1) for y in (g, beta))
        return _normalized(k), v, g, beta

    def _correction_flops(self, chunk: int) -> int:
        # per token and head: k k^T, k S and the solve
        return 2 * chunk * self.key_dim + 2 * self.key_dim * self.value_dim + chunk * self.value_dim

    def _kept_queries(self, tokens: int) -> int:
        """The queries that `write` computes of `tokens` tokens: those that later convolutions take in."""
        return min(tokens, max(self.kernel_widths.values()) - 1) if "q" in self.kernel_widths else 0

    def write_flops(self, tokens: int) -> int:
        width, projected = self.out.out_features, self.key_dim + self.value_dim + 2
        products = 2 * self.key_dim * self.value_dim + self._correction_flops(min(tokens, chunk_length(tokens)))
        queries = 2 * width * self.key_dim * self._kept_queries(tokens)
        return self.heads * (tokens * (2 * width * projected + products) + queries)

    def flops(self, tokens: int, kept: int) -> int:
        width, chunk = self.out.out_features, min(tokens, chunk_length(tokens))
        projected = (tokens - self._kept_queries(tokens)) * self.key_dim + 2 * tokens * self.value_dim
        reads = 2 * self.key_dim * self.value_dim + 2 * chunk * (self.key_dim + self.value_dim)
        return self.write_flops(tokens) + self.heads * (2 * width * projected + tokens * reads)


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


def _normalized(x: Tensor) -> Tensor:
    """x over its norm. A pad's vector of zeros stays one, also in float16, where 1e-12 is 0."""
    return F.normalize(x, dim=-1, eps=max(1e-12, torch.finfo(x.dtype).tiny))
