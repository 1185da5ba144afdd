"""The layers of a block: softmax attention, gated delta fast weights, and the MLP.

A mixer maps (x, state) to (y, state). Its state is all that it keeps across a window's border: attention keeps nothing
under hard eviction (None), fast weights keep their matrix. A mixer that keeps a state also has `write`, the new state
alone, for a pass whose output nobody reads. DeepSpeed gives Muon every parameter of two or more dimensions whose name
lacks `embed` and `lm_head`, so names matter here (see optim.py).
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config import ModelConfig
from sleepmodel.ops.gated_delta import chunk_length, gated_delta_rule, gated_delta_write

INITIAL_DECAY = 0.98
ROPE_BASE = 10_000.0


def rope(x: Tensor) -> Tensor:
    """Rotary position embedding, position = index in the window. x: [B, H, T, D], D even; same shape and dtype."""
    tokens, half = x.shape[-2], x.shape[-1] // 2
    frequency = ROPE_BASE ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(tokens, device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A bias-free projection that starts at zero, so that a new block is the identity."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


class Mixer(nn.Module):
    """A sequence mixer; one that keeps a state across a window's border has all of these methods."""

    keeps_state: ClassVar[bool]

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def initial_state(self, batch: int, device: torch.device) -> Tensor:
        """The state of `batch` rows that have read nothing."""
        raise NotImplementedError

    def write(self, x: Tensor, state: Tensor) -> Tensor:
        """x: [B, T, d] -> the state after the window, where the output is not wanted."""
        raise NotImplementedError

    def flops(self, tokens: int) -> int:
        """Forward matmul FLOPs of one row of a window of `tokens` tokens."""
        raise NotImplementedError

    def write_flops(self, tokens: int) -> int:
        """Those of `write`; a triangular solve counts as half a product."""
        raise NotImplementedError


class Attention(Mixer):
    """Causal softmax attention inside the window, with RoPE and QK-norm. It keeps nothing: the state is None."""

    keeps_state = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.heads, width = config.n_heads, config.d_model
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = zero_linear(width, width)

    def forward(self, x: Tensor, state: None = None) -> tuple[Tensor, None]:
        """x: [B, T, d] -> [B, T, d]."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = (rope(F.rms_norm(p, p.shape[-1:])) for p in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2)), None

    def flops(self, tokens: int) -> int:
        width = self.out.in_features
        return 2 * tokens * 4 * width * width + 4 * tokens * tokens * width


class GatedDelta(Mixer):
    """Gated DeltaNet's fast weights (paper, "The mechanism"). The state is S, [B, H, K, V], always float32 or wider.

    beta = eta * sigmoid(w_beta x + b), alpha = exp(-softplus(w_decay x + c)); no short convolution.
    """

    keeps_state = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        width, heads, key_dim, value_dim = config.d_model, config.fast_heads, config.key_dim, config.value_dim
        self.heads, self.key_dim, self.value_dim, self.eta = heads, key_dim, value_dim, config.fast_weight_lr
        self.q, self.k = (nn.Linear(width, heads * key_dim, bias=False) for _ in range(2))
        self.v, self.gate = (nn.Linear(width, heads * value_dim, bias=False) for _ in range(2))
        self.beta, self.decay = (nn.Linear(width, heads) for _ in range(2))
        nn.init.zeros_(self.beta.bias)
        nn.init.constant_(self.decay.bias, math.log(math.expm1(-math.log(INITIAL_DECAY))))
        self.norm = nn.RMSNorm(value_dim)
        self.out = zero_linear(heads * value_dim, width)

    def initial_state(self, batch: int, device: torch.device) -> Tensor:
        """Zeros [batch, H, K, V], float32 (float64 in a float64 model)."""
        dtype = torch.promote_types(self.out.weight.dtype, torch.float32)
        return torch.zeros(batch, self.heads, self.key_dim, self.value_dim, dtype=dtype, device=device)

    def _write_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k, v = (F.silu(p(x)).unflatten(-1, (self.heads, -1)) for p in (self.k, self.v))
        return F.normalize(k, dim=-1), v, -F.softplus(self.decay(x)), self.eta * torch.sigmoid(self.beta(x))

    def write(self, x: Tensor, state: Tensor) -> Tensor:
        """x: [B, T, d], state: [B, H, K, V] -> the state after the window."""
        return gated_delta_write(*self._write_inputs(x), state)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, T, d], state: [B, H, K, V] -> (y [B, T, d], the state after the window)."""
        q = F.normalize(F.silu(self.q(x)).unflatten(-1, (self.heads, -1)), dim=-1)
        o, state = gated_delta_rule(q, *self._write_inputs(x), state)
        return self.out((self.norm(o) * F.silu(self.gate(x).unflatten(-1, (self.heads, -1)))).flatten(2)), state

    def write_flops(self, tokens: int) -> int:
        chunk, inner = min(tokens, chunk_length(tokens)), self.key_dim * self.value_dim
        projections = self.out.out_features * (self.key_dim + self.value_dim + 2)
        return tokens * self.heads * (2 * projections + 4 * inner + chunk * (2 * self.key_dim + self.value_dim))

    def flops(self, tokens: int) -> int:
        chunk, inner = min(tokens, chunk_length(tokens)), self.key_dim * self.value_dim
        projections = self.out.out_features * (self.key_dim + 2 * self.value_dim)
        reads = 2 * projections + 2 * inner + 2 * chunk * (self.key_dim + self.value_dim)
        return self.write_flops(tokens) + tokens * self.heads * reads


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.mlp_ratio * config.d_model, bias=False)
        self.down = zero_linear(config.mlp_ratio * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d] -> [B, T, d]."""
        return self.down(F.relu(self.up(x)).square())

    def flops(self, tokens: int) -> int:
        """Forward FLOPs of one row of `tokens` tokens."""
        return 4 * tokens * self.up.weight.numel()


MIXERS: dict[str, type[Mixer]] = {"attention": Attention, "gated_delta": GatedDelta}
