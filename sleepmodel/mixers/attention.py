"""Softmax attention with a KV cache, over the window or over fewer tokens."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config.model import ModelConfig, RopeScaling
from sleepmodel.mixers.base import FAR, Mixer, RMSNorm, Rotation, Span, zero_linear


def rotation(
    position: Tensor, size: int, dtype: torch.dtype, base: float, scaling: RopeScaling | None = None
) -> Rotation:
    """Rotary position embedding at these positions [B or 1, T or 1], for vectors of `size` numbers, which is even."""
    half = size // 2
    wide = torch.promote_types(dtype, torch.float32)
    frequency = base ** -(torch.arange(half, device=position.device, dtype=wide) / half)
    if scaling is not None:
        turns = scaling.original_positions * frequency / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        unchanged = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = frequency * (unchanged + (1 - unchanged) / scaling.factor)
    angle = position[:, None, :, None] * frequency
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    return Rotation(torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1))


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Apply rotary position embedding to x [B, H, T, D]. Same shape and dtype as x.

    It is a rotation for every frequency, so that the positions of two rotations add up, as sliding eviction needs.
    """
    # in this order, as the sum has the layout of its first term, and roll gives a contiguous one
    return x.roll(x.shape[-1] // 2, -1) * by.swapped + x * by.straight


class KV(NamedTuple):
    """Keys and values of J tokens, oldest first.

    k, v: [B, H, J, D], k with RoPE for its position; place: the positions, int64 [B or 1, J], as in Span, negative for
    tokens of earlier windows.
    """

    k: Tensor
    v: Tensor
    place: Tensor

    def append(self, new: KV) -> KV:
        """These tokens followed by the new ones."""
        if self.k.shape[2] == 0:
            return new
        rows = max(len(self.place), len(new.place))
        place = torch.cat((self.place.expand(rows, -1), new.place.expand(rows, -1)), 1)
        return KV(torch.cat((self.k, new.k), 2), torch.cat((self.v, new.v), 2), place)

    def sort(self) -> KV:
        """Sort the tokens of each row by position, after pads have broken the order; FAR comes first."""
        place, order = self.place.sort(dim=1, stable=True)
        gather = order[:, None, :, None].expand(len(self.k), self.k.shape[1], -1, self.k.shape[3])
        return KV(self.k.gather(2, gather), self.v.gather(2, gather), place)

    def latest(self, tokens: int) -> KV:
        """The last `tokens` tokens."""
        return KV(self.k[:, :, -tokens:], self.v[:, :, -tokens:], self.place[:, -tokens:])


class Attention(Mixer):
    """Causal softmax attention over the latest L tokens, with RoPE and QK-norm. The state is the KV cache.

    Hard eviction empties the cache; sliding eviction keeps the latest L - 1 tokens, as computed in the last pass.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, kv_heads = config.n_heads, config.kv_heads or config.n_heads
        self.kv_heads, self.head_size, self.window = kv_heads, config.head_size, config.window
        self.grouped, self.base, self.scaling = kv_heads != heads, config.rope_base, config.rope_scaling
        self.common = config.head_size, config.rope_base, config.rope_scaling
        width, bias = config.d_model, config.attention_bias
        sizes = (heads * self.head_size, kv_heads * self.head_size, kv_heads * self.head_size)
        self.q, self.k, self.v = (nn.Linear(width, size, bias=bias != "none") for size in sizes)
        self.q_norm, self.k_norm = (_qk_norm(config) for _ in range(2))
        self.out = zero_linear(heads * self.head_size, width, bias=bias == "all")

    def keeps_state(self, eviction: str) -> bool:
        return eviction == "sliding"

    def initial_state(self, batch: int) -> KV:
        """No tokens."""
        empty = self.out.weight.new_zeros(batch, self.kv_heads, 0, self.head_size)
        return KV(empty, empty, torch.zeros(1, 0, dtype=torch.int64, device=empty.device))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_size)).transpose(1, 2)

    def _rotation(self, position: Tensor, dtype: torch.dtype) -> Rotation:
        return rotation(position, self.head_size, dtype, self.base, self.scaling)

    def _rotated(self, x: Tensor, span: Span) -> Tensor:
        by = span.rotation
        # never rounded twice
        own = by is None or by.straight.dtype != x.dtype or not self._shares_rotation
        return rotate(x, self._rotation(span.place, x.dtype) if by is None or own else by)

    @property
    def _shares_rotation(self) -> bool:
        """Whether RoPE is the config's, as in other blocks; a subclass may have its own."""
        return (self.head_size, self.base, self.scaling) == self.common

    def prepare(self, span: Span, dtype: torch.dtype) -> Span:
        known = span.rotation is not None or not self._shares_rotation
        return span if known else span._replace(rotation=self._rotation(span.place, dtype))

    def _new(self, x: Tensor, span: Span) -> KV:
        k = self.k_norm(self._split(self.k(x)))
        return KV(self._rotated(k, span), self._split(self.v(x)), span.place)

    def _kept(self, seen: KV, span: Span) -> KV:
        return (seen if span.real is None else seen.sort()).latest(self.window)

    def write(self, x: Tensor, state: KV, span: Span) -> KV:
        return self._kept(state.append(self._new(x, span)), span)

    def forward(self, x: Tensor, state: KV, span: Span) -> tuple[Tensor, KV]:
        q = self._rotated(self.q_norm(self._split(self.q(x))), span)
        seen = state.append(self._new(x, span))
        if span.real is None and seen.k.shape[2] == x.shape[1] <= self.window:
            y = F.scaled_dot_product_attention(q, seen.k, seen.v, is_causal=True, enable_gqa=self.grouped)
        else:
            distance = span.place[:, :, None] - seen.place[:, None, :]
            # all pads have the position FAR, so that a pad attends only to pads and no softmax is empty
            visible = (distance >= 0) & (distance < self.window)
            mask = visible[:, None]
            y = F.scaled_dot_product_attention(q, seen.k, seen.v, attn_mask=mask, enable_gqa=self.grouped)
        return self.out(y.transpose(1, 2).flatten(2)), self._kept(seen, span)

    def begin_pass(self, state: KV) -> KV:
        return self.initial_state(len(state.k))

    def evict(self, state: KV, length: Tensor | int, eviction: str, earlier: KV | None = None) -> KV:
        if not self.keeps_state(eviction):
            return self.initial_state(len(state.k))
        if earlier is not None:
            older = earlier._replace(place=earlier.place.masked_fill(earlier.place >= 0, FAR))
            state = older.append(state).sort()
        state = state.latest(self.window - 1)
        shift = torch.as_tensor(length, device=state.place.device).view(-1, 1)
        return KV(rotate(state.k, self._rotation(-shift, state.k.dtype)), state.v, state.place - shift)

    def flops(self, tokens: int, kept: int) -> int:
        read = 4 * tokens * (tokens + min(kept, self.window - 1)) * self.q.out_features
        projected = 2 * tokens * (self.q.weight.numel() + self.out.weight.numel())
        return self.write_flops(tokens) + projected + read

    def write_flops(self, tokens: int) -> int:
        return 2 * tokens * (self.k.weight.numel() + self.v.weight.numel())


class LocalAttention(Attention):
    """Attention over the latest `local_span` tokens, if these are fewer than L."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.window = min(config.window, cast(int, config.local_span))


def _qk_norm(config: ModelConfig) -> nn.Module:
    if config.qk_norm == "none":
        return nn.Identity()
    if config.qk_norm == "learned":
        return RMSNorm(config.head_size, eps=config.norm_eps)
    return RMSNorm(config.head_size, elementwise_affine=False)
