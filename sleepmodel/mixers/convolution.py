"""Causal, depthwise convolutions over the latest tokens, and what is kept of their inputs for later tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.mixers.base import Span


class ConvolvedState(NamedTuple):
    """The state of fast weights with convolutions before them.

    S: [B, H, K, V]; tail: [B, 0 to W - 1, C], the inputs of all convolutions from the latest tokens, oldest first,
    where W is the width of the widest kernel.
    """

    S: Tensor
    tail: Tensor


def random_kernel(width: int, channels: int) -> nn.Parameter:
    """The first weights of a learned kernel, [width * channels], those of the oldest token first: uniform within
    +-width^-.5, as in Gated DeltaNet's own layers. From the identity, one hop of Depo was learned more slowly
    by two of three seeds.

    They are a vector, not a matrix, so that AdamW trains them: each channel is a filter of its own, and Muon, which
    takes all matrices, would make the filters of different channels orthogonal.
    """
    return nn.Parameter(torch.empty(width * channels).uniform_(-(width**-0.5), width**-0.5))


def convolve(inputs: Tensor, kernel: Tensor) -> Tensor:
    """The convolution of the last T of the inputs [B, W - 1 + T, C] -> [B, T, C]. kernel: oldest token first, [W, C],
    or [W, B, T, C] if each token has its own."""
    # W products are up to four times as fast as conv1d or unfold on a CPU
    tokens, kernel = inputs.shape[1] - len(kernel) + 1, kernel.to(inputs.dtype)
    total = inputs[:, :tokens] * kernel[0]
    for tap in range(1, len(kernel)):
        total = torch.addcmul(total, inputs[:, tap : tap + tokens], kernel[tap])
    return total


def with_tail(tail: Tensor, new: Tensor, before: int) -> Tensor:
    """The `before` latest inputs of earlier tokens, then those of new ones, [B, before + T, C]; zeros before the first
    token."""
    return torch.cat((F.pad(tail, (0, 0, before - tail.shape[1], 0)).to(new.dtype), new), 1)


def latest(inputs: Tensor, span: Span, before: int) -> Tensor:
    """The `before` inputs up to each row's last token, [B, before, C]. inputs: as of `with_tail`."""
    if span.real is None:
        return inputs[:, -before:]
    # before the pads on the right
    order = torch.arange(1, span.real.shape[1] + 1, device=inputs.device)
    last = (span.real * order).amax(1)
    at = last[:, None] + torch.arange(before, device=inputs.device)
    return inputs.gather(1, at[..., None].expand(-1, -1, inputs.shape[2]))


def merge_tails(tail: Tensor, earlier: Tensor, length: Tensor | int) -> Tensor:
    """The tail at the end of a window of `length` tokens whose passes saw only the window: if it is shorter than the
    tail, the rest comes from before them, `earlier`."""
    size = tail.shape[1]
    at = torch.arange(size, device=tail.device)
    fresh = at >= size - torch.as_tensor(length, device=at.device).view(-1, 1)
    return torch.where(fresh[..., None], tail, earlier)
