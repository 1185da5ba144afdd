"""The contract of a sequence mixer, and where the tokens that it gets stand in their window.

Names of parameters matter: DeepSpeed gives Muon every parameter of two or more dimensions whose name has neither
`embed` nor `lm_head` in it (see training/optim.py).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PAD = -1  # any negative token is a pad
FAR = -(2**40)  # the place of pads and empty slots, which no token of a window attends to


class Span(NamedTuple):
    """Where T tokens, a part of a window or all of it, stand in it.

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

    def keeps_state(self, eviction: str) -> bool:
        """Whether anything of the state outlives a window under this eviction, "hard" or "sliding"."""
        raise NotImplementedError

    def initial_state(self, batch: int) -> Any:
        """The state of `batch` rows that have read nothing."""
        raise NotImplementedError

    def write(self, x: Tensor, state: Any, span: Span) -> Any:
        """The state that `forward` would return, without computing the output."""
        raise NotImplementedError

    def begin_pass(self, state: Any) -> Any:
        """The state with which a further pass over the same window begins. Such a pass attends to the window alone, as
        the KV cache of a full window holds nothing else."""
        raise NotImplementedError

    def evict(self, state: Any, length: Tensor | int, eviction: str, earlier: Any = None) -> Any:
        """What is left when a window of `length` tokens (as `Span.length`) ends.

        eviction: "hard" drops the KV cache, "sliding" keeps the L - 1 latest tokens of it;
        earlier: the state before the passes that saw the window alone; None: all that stays is in `state`.
        """
        raise NotImplementedError

    def straight_through(self, before: Any, after: Any) -> Any:
        """The state `after` a pass without gradient, through which a gradient of the fast weights reaches `before`
        unchanged (straight-through)."""
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
