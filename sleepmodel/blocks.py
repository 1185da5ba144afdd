"""A block of the model: a sequence mixer and an MLP on a residual stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config.model import ModelConfig
from sleepmodel.mixers import mixer_class
from sleepmodel.mixers.base import Mixer, RMSNorm, Span, product_dtype, zero_linear

# of each function. Presets have at most 40 (GSM with sliding eviction); beyond the limit, blocks would run uncompiled
COMPILED_SHAPES = 64


class MLP(nn.Module):
    """Two linear layers with a squared ReLU between them, or SwiGLU, whose third layer is the gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden, bias = config.d_model, config.mlp_size, config.mlp_bias
        self.gate = nn.Linear(width, hidden, bias=bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = zero_linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d] -> [B, T, d]."""
        if self.gate is None:
            return self.down(F.relu(self.up(x)).square())
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def flops(self, tokens: int) -> int:
        """Forward FLOPs for one row of `tokens` tokens."""
        return (4 if self.gate is None else 6) * tokens * self.up.weight.numel()


class Block(nn.Module):
    """A sequence mixer and an MLP, each with pre-norm, perhaps a norm after it (sandwich), and a residual. A block
    that was inserted into a pretrained model is a mixer with pre-norm and a residual."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        whole = number not in config.inserted
        sandwich = whole and config.sandwich_norms
        self.mixer_norm = residual_norm(config)
        self.mixer: Mixer = mixer_class(config.mixers[number])(config)
        self.mixer_post_norm = residual_norm(config) if sandwich else nn.Identity()
        self.mlp_norm = residual_norm(config) if whole else None
        self.mlp = MLP(config) if whole else None
        self.mlp_post_norm = residual_norm(config) if sandwich else nn.Identity()
        self._compiled_write: Callable[[Tensor, Any, Span], Any] | None = None

    def forward(self, h: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        """h: [B, T, d] -> (h, the mixer's state after these tokens)."""
        y, state = self.mixer(_normed(h, self.mixer_norm), state, span)
        h = h + self.mixer_post_norm(y)
        if self.mlp is not None and self.mlp_norm is not None:
            h = h + self.mlp_post_norm(self.mlp(_normed(h, self.mlp_norm)))
        return h, state

    def write(self, h: Tensor, state: Any, span: Span) -> Any:
        """The state that `forward` would return, without computing the output."""
        return (self._compiled_write or self._write)(h, state, span)

    def _write(self, h: Tensor, state: Any, span: Span) -> Any:
        return self.mixer.write(_normed(h, self.mixer_norm), state, span)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile `forward` and `write`. The arguments are those of torch.compile."""
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, COMPILED_SHAPES)
        super().compile(*args, **kwargs)
        self._compiled_write = torch.compile(self._write, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # as nn.Module does with a compiled forward: it would run this block's weights in a copy
        return {**super().__getstate__(), "_compiled_write": None}  # type: ignore[no-untyped-call]

    def flops(self, tokens: int, kept: int) -> int:
        """Forward FLOPs for one row; arguments as in Mixer.flops."""
        return self.mixer.flops(tokens, kept) + (0 if self.mlp is None else self.mlp.flops(tokens))


def residual_norm(config: ModelConfig) -> RMSNorm:
    """An RMS norm of the residual stream."""
    return RMSNorm(config.d_model, eps=config.norm_eps)


def _normed(h: Tensor, norm: RMSNorm) -> Tensor:
    """h after the norm, in the dtype of the products that follow: autocast would cast it for each of them."""
    return norm(h).to(product_dtype(h))
