"""The interface of a sequence mixer, and the positions of its tokens in their window.

The names of parameters matter: Muon optimises every matrix whose name contains neither `embed` nor `lm_head` (see
training/optim.py), and refuses parameters of three dimensions or more.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD = -1  # any negative token is a pad
FAR = -(2**40)  # the position of pads and of empty slots; no token attends to it


class Rotation(NamedTuple):
    """What rotary position embedding multiplies a vector with, and its halves swapped: [B or 1, 1, T or 1, D] each."""

    straight: Tensor
    swapped: Tensor


class Span(NamedTuple):
    """The positions of T tokens in their window; they may be all of its tokens or a part.

    place: the positions, int64 [B, T], or [1, T] if the rows agree: 0 at the first token of a window, FAR at a pad;
    real: bool [B, T], False at pads; None if there are no pads;
    start: the number of tokens of each row before its window, int or int64 [B or 1, 1];
    rotation: RoPE at these positions, as the model's config says; None if it has not been computed.
    """

    place: Tensor
    real: Tensor | None = None
    start: Tensor | int = 0
    rotation: Rotation | None = None

    @classmethod
    def of(cls, real: Tensor, filled: Tensor | int = 0, start: Tensor | int = 0) -> Span:
        """The span of tokens that follow `filled` others in the window (int, or int64 [B, 1]); real: bool [B, T]."""
        return cls((filled + real.cumsum(1) - 1).masked_fill(~real, FAR), real, start)

    @classmethod
    def whole(cls, tokens: int, device: torch.device, start: Tensor | int = 0) -> Span:
        """The span of the first `tokens` tokens of a window without pads."""
        return cls(torch.arange(tokens, device=device)[None], start=start)

    def length(self) -> Tensor:
        """The number of tokens that are not pads, int64 [B or 1, 1]."""
        if self.real is None:
            return self.place.new_full((1, 1), self.place.shape[1])
        return self.real.sum(1, keepdim=True)


class Mixer(nn.Module):
    """A sequence mixer: (x [B, T, d], state, span) -> (y [B, T, d], state).

    The state is a Tensor, or a NamedTuple of Tensors, with the batch first. It holds everything that later tokens need
    of earlier ones: a window gives the same outputs in one piece as in several.
    """

    def keeps_state(self, eviction: str) -> bool:
        """Whether any part of the state outlives a window under this eviction, "hard" or "sliding"."""
        raise NotImplementedError

    @property
    def has_fast_weights(self) -> bool:
        """Whether any part of the state outlives a window even under hard eviction, as fast weights alone do."""
        return self.keeps_state("hard")

    def initial_state(self, batch: int) -> Any:
        """The state of `batch` rows that have read nothing."""
        raise NotImplementedError

    def write(self, x: Tensor, state: Any, span: Span) -> Any:
        """The state that `forward` would return, without computing the output."""
        raise NotImplementedError

    def prepare(self, span: Span, dtype: torch.dtype) -> Span:
        """The span with what every pass over it would compute again. dtype: of matrix products."""
        return span

    def begin_pass(self, state: Any) -> Any:
        """The state with which a further pass over the same window begins. Such a pass attends only to the window, as
        the KV cache holds at most L tokens."""
        raise NotImplementedError

    def evict(self, state: Any, length: Tensor | int, eviction: str, earlier: Any = None) -> Any:
        """What remains of the state when a window of `length` tokens (as `Span.length`) ends.

        eviction: "hard" drops the KV cache, "sliding" keeps its latest L - 1 tokens;
        earlier: the state before the passes that saw only the window, from which sliding eviction keeps what `state`
        lacks; None if `state` has everything.
        """
        raise NotImplementedError

    def straight_through(self, before: Any, after: Any) -> Any:
        """The state `after` passes of a sleep, which is a constant, where the backward is cut. By default no gradient
        goes back to the state `before` the sleep; that of fast weights should, unchanged (straight-through)."""
        return after

    def flops(self, tokens: int, kept: int) -> int:
        """Matmul FLOPs of `forward` for `tokens` tokens of one row. kept: earlier tokens that they can attend to."""
        raise NotImplementedError

    def write_flops(self, tokens: int) -> int:
        """Matmul FLOPs of `write`; a triangular solve counts as half a product."""
        raise NotImplementedError


class RMSNorm(nn.RMSNorm):
    """An RMS norm in the dtype of its input, for which a GPU has one kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d] -> [..., d]."""
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with x, which autocast lowers."""
    kind = x.device.type
    known = torch.amp.is_autocast_available(kind)  # not on "meta"
    lowered = x.dtype == torch.float32 and known and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if lowered else x.dtype


def zero_linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A projection that starts at zero, so that a new block is the identity."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
