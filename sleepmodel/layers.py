"""The layers of a block: softmax attention, the MLP, and what every sequence mixer promises.

DeepSpeed gives Muon every parameter of two or more dimensions whose name lacks `embed` and `lm_head`, so names matter
here (see optim.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config import ModelConfig

PAD = -1  # any negative token is a pad
FAR = -(2**40)  # the place of what no token of a window sees: pads and empty slots
ROPE_BASE = 10_000.0


class Span(NamedTuple):
    """Where T tokens, which are a piece of a window or all of it, stand in it.

    place: int64 [B, T], or [1, T] where the rows agree: 0 at the first token of a row's window, FAR at a pad;
    real: bool [B, T], False at pads; None where there are none.
    """

    place: Tensor
    real: Tensor | None = None

    @classmethod
    def of(cls, real: Tensor, filled: Tensor | int = 0) -> Span:
        """The span of tokens behind `filled` others of the window (int, or int64 [B, 1]); real: bool [B, T]."""
        return cls((filled + real.cumsum(1) - 1).masked_fill(~real, FAR), real)

    @classmethod
    def whole(cls, tokens: int, device: torch.device) -> Span:
        """The span of a window's first `tokens` tokens, no pads among them."""
        return cls(torch.arange(tokens, device=device)[None])

    def length(self) -> Tensor | int:
        """Tokens that are no pads: int, or int64 [B, 1]."""
        return self.place.shape[1] if self.real is None else self.real.sum(1, keepdim=True)


class Mixer(nn.Module):
    """A sequence mixer: (x [B, T, d], state, span) -> (y [B, T, d], state).

    The state is a Tensor or a NamedTuple of Tensors with the batch first, and holds all that later tokens need of
    earlier ones: a window in one piece and the same window in several give the same outputs.
    """

    keeps_state: bool  # whether anything of the state outlives a window

    def set_eviction(self, eviction: str) -> None:
        """What becomes of the KV cache at a border: "hard" or "sliding"."""

    def initial_state(self, batch: int) -> Any:
        """The state of `batch` rows that have read nothing."""
        raise NotImplementedError

    def write(self, x: Tensor, state: Any, span: Span) -> Any:
        """The state that `forward` would return, where the output is not wanted."""
        raise NotImplementedError

    def again(self, state: Any) -> Any:
        """What a further pass over the same window begins with. It attends to the window alone: a window's tokens are
        all that the KV cache holds when it is full."""
        raise NotImplementedError

    def evict(self, state: Any, length: Tensor | int, earlier: Any = None) -> Any:
        """What is left when a window of `length` tokens (as `Span.length`) ends.

        earlier: the state before the passes that saw the window alone; None is: all that stays is in `state`.
        """
        raise NotImplementedError

    def straight_through(self, before: Any, after: Any) -> Any:
        """The state `after` a pass that ran this block without a gradient, through which a gradient of the fast weights
        reaches `before` as if they were the same."""
        return after

    def flops(self, tokens: int, kept: int) -> int:
        """Forward matmul FLOPs of one row of a window of `tokens` tokens; `kept`: earlier ones that can be seen."""
        raise NotImplementedError

    def write_flops(self, tokens: int) -> int:
        """Those of `write`; a triangular solve counts as half a product."""
        raise NotImplementedError


def rope(x: Tensor, place: Tensor) -> Tensor:
    """Rotary position embedding. x: [B, H, T, D], D even; place: [B or 1, T or 1]. Same shape and dtype as x."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    frequency = ROPE_BASE ** -(torch.arange(half, device=x.device, dtype=wide) / half)
    angle = place[:, None, :, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


def zero_linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A projection that starts at zero, so that a new block is the identity."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    return layer


class KV(NamedTuple):
    """Keys and values of J tokens, oldest first. k (rotated to its place), v: [B, H, J, D]; place: [B or 1, J], as a
    Span's; negative for tokens of earlier windows."""

    k: Tensor
    v: Tensor
    place: Tensor

    def append(self, new: KV) -> KV:
        """These tokens, then the new ones."""
        if self.k.shape[2] == 0:
            return new
        rows = max(len(self.place), len(new.place))
        place = torch.cat((self.place.expand(rows, -1), new.place.expand(rows, -1)), 1)
        return KV(torch.cat((self.k, new.k), 2), torch.cat((self.v, new.v), 2), place)

    def sort(self) -> KV:
        """Oldest first in each row, FAR before all: what pads had mixed up."""
        place, order = self.place.sort(dim=1, stable=True)
        gather = order[:, None, :, None].expand(len(self.k), self.k.shape[1], -1, self.k.shape[3])
        return KV(self.k.gather(2, gather), self.v.gather(2, gather), place)

    def latest(self, tokens: int) -> KV:
        """The last `tokens` of them."""
        return KV(self.k[:, :, -tokens:], self.v[:, :, -tokens:], self.place[:, -tokens:])


class Attention(Mixer):
    """Causal softmax attention over the latest L tokens, with RoPE and QK-norm. The state is the KV cache.

    Hard eviction empties it; sliding eviction keeps the L - 1 latest tokens, as the last pass left them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.width, self.window = config.n_heads, config.d_model, config.window
        self.set_eviction(config.eviction)
        self.q, self.k, self.v = (nn.Linear(self.width, self.width, bias=False) for _ in range(3))
        self.out = zero_linear(self.width, self.width)

    def set_eviction(self, eviction: str) -> None:
        self.keeps_state = eviction == "sliding"

    def initial_state(self, batch: int) -> KV:
        """No tokens."""
        empty = self.out.weight.new_zeros(batch, self.heads, 0, self.width // self.heads)
        return KV(empty, empty, torch.zeros(1, 0, dtype=torch.int64, device=empty.device))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _new(self, x: Tensor, span: Span) -> KV:
        k = self._split(self.k(x))
        return KV(rope(F.rms_norm(k, k.shape[-1:]), span.place), self._split(self.v(x)), span.place)

    def _kept(self, seen: KV, span: Span) -> KV:
        return (seen if span.real is None else seen.sort()).latest(self.window)

    def write(self, x: Tensor, state: KV, span: Span) -> KV:
        return self._kept(state.append(self._new(x, span)), span)

    def forward(self, x: Tensor, state: KV, span: Span) -> tuple[Tensor, KV]:
        q = self._split(self.q(x))
        q = rope(F.rms_norm(q, q.shape[-1:]), span.place)
        seen = state.append(self._new(x, span))
        if span.real is None and seen.k.shape[2] == x.shape[1]:
            y = F.scaled_dot_product_attention(q, seen.k, seen.v, is_causal=True)
        else:
            distance = span.place[:, :, None] - seen.place[:, None, :]
            # a pad is as FAR as other pads, so that it sees these alone and no softmax is empty
            visible = (distance >= 0) & (distance < self.window)
            y = F.scaled_dot_product_attention(q, seen.k, seen.v, attn_mask=visible[:, None])
        return self.out(y.transpose(1, 2).flatten(2)), self._kept(seen, span)

    def again(self, state: KV) -> KV:
        return self.initial_state(len(state.k))

    def evict(self, state: KV, length: Tensor | int, earlier: KV | None = None) -> KV:
        if not self.keeps_state:
            return self.initial_state(len(state.k))
        if earlier is not None:
            older = earlier._replace(place=earlier.place.masked_fill(earlier.place >= 0, FAR))
            state = older.append(state).sort()
        state = state.latest(self.window - 1)
        shift = torch.as_tensor(length, device=state.place.device).view(-1, 1)
        return KV(rope(state.k, -shift), state.v, state.place - shift)

    def flops(self, tokens: int, kept: int) -> int:
        return 8 * tokens * self.width**2 + 4 * tokens * (tokens + kept) * self.width

    def write_flops(self, tokens: int) -> int:
        return 4 * tokens * self.width**2


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
