"""The layers of a block: softmax attention, the MLP, and what every sequence mixer promises.

DeepSpeed gives Muon every parameter of two or more dimensions whose name lacks `embed` and `lm_head`, so names matter
here (see optim.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PAD = -1  # any negative token is a pad
FAR = -(2**40)  # the place of what no token of a window sees: pads and empty slots


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

    def begin_pass(self, state: Any) -> Any:
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


def zero_linear(inputs: int, outputs: int, bias: bool = False) -> nn.Linear:
    """A projection that starts at zero, so that a new block is the identity."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.zeros_(layer.weight)
    return layer
