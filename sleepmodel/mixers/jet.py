"""Jet-Nemotron's mixer: gated delta fast weights with a dynamic convolution on the values."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config.model import ModelConfig, check_jet_window
from sleepmodel.mixers.base import Span, zero_linear
from sleepmodel.mixers.gated_delta import GatedDelta

JET_KERNEL, JET_REDUCTION = 4, 8
JET_NEMOTRON_EPS = 1e-5


class JetState(NamedTuple):
    """S: [B, H, K, V]; tail: [B, 0 to 3, H * V], the convolution's inputs from the latest tokens."""

    S: Tensor
    tail: Tensor


class Jet(GatedDelta):
    """Jet-Nemotron's block: GatedDelta whose values pass through a dynamic convolution.

    Each value becomes a causal, depthwise convolution of the latest 4 values. Its kernel is computed from the token; an
    untrained one is the identity. At a border the inputs of the convolution are treated like the KV cache: hard
    eviction drops them, as only the fast weights may cross, and sliding eviction keeps the latest 3. A further pass of
    a sleep sees only the window. Inputs before the first token are zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        check_jet_window(config)  # here too, as a config does not know the subclasses that a path names
        channels = self.heads * self.value_dim
        self.kernel_in = nn.Linear(config.d_model, self.generator_width(config), bias=False)
        self.kernel_out = zero_linear(self.kernel_in.out_features, channels * JET_KERNEL, bias=True)
        with torch.no_grad():
            self.kernel_out.bias.view(channels, JET_KERNEL).copy_(torch.eye(JET_KERNEL)[-1])

    @staticmethod
    def generator_width(config: ModelConfig) -> int:
        """Hidden channels between the two layers that compute the kernel."""
        return max(1, config.d_model // JET_REDUCTION)

    def initial_state(self, batch: int) -> JetState:
        return JetState(super().initial_state(batch), self._no_tail(batch))

    def _no_tail(self, batch: int) -> Tensor:
        return self.out.weight.new_zeros(batch, 0, self.heads * self.value_dim)

    def forward(self, x: Tensor, state: JetState, span: Span) -> tuple[Tensor, JetState]:
        v, tail = self._convolve(x, state.tail, span)
        y, S = self._read(x, v, state.S, span)
        return y, JetState(S, tail)

    def write(self, x: Tensor, state: JetState, span: Span) -> JetState:
        v, tail = self._convolve(x, state.tail, span)
        return JetState(self.write_rule(*self._write_inputs(x, v, span), state.S), tail)

    def begin_pass(self, state: JetState) -> JetState:
        return JetState(state.S, self._no_tail(len(state.S)))

    def evict(self, state: JetState, length: Tensor | int, eviction: str, earlier: JetState | None = None) -> JetState:
        if eviction == "hard":
            return self.begin_pass(state)
        if earlier is None:
            return state
        # if the window is shorter than the tail, the rest of the tail comes from before the passes
        at, size = torch.arange(state.tail.shape[1], device=state.tail.device), state.tail.shape[1]
        fresh = at >= size - torch.as_tensor(length, device=at.device).view(-1, 1)
        return state._replace(tail=torch.where(fresh[..., None], state.tail, earlier.tail))

    def straight_through(self, before: JetState, after: JetState) -> JetState:
        return after._replace(S=super().straight_through(before.S, after.S))

    def _convolve(self, x: Tensor, tail: Tensor, span: Span) -> tuple[Tensor, Tensor]:
        """The convolved values [B, T, H * V], and the new tail."""
        v, before = self.v(x), JET_KERNEL - 1
        if span.real is not None:
            v = v * span.real.unsqueeze(-1)
        inputs = torch.cat((F.pad(tail, (0, 0, before - tail.shape[1], 0)).to(v.dtype), v), 1)
        kernel = self.kernel_out(F.silu(self.kernel_in(x))).unflatten(-1, (-1, JET_KERNEL))
        convolved = (inputs.unfold(1, JET_KERNEL, 1) * kernel).sum(-1)
        if span.real is None:
            return convolved, inputs[:, -before:]
        # the tail ends at each row's last token, before the pads on its right
        order = torch.arange(1, x.shape[1] + 1, device=x.device)
        last = (span.real * order).amax(1)
        at = last[:, None] + torch.arange(before, device=x.device)
        return convolved, inputs.gather(1, at[..., None].expand(-1, -1, inputs.shape[2]))

    def write_flops(self, tokens: int) -> int:
        generator = self.kernel_in.weight.numel() + self.kernel_out.weight.numel()
        return super().write_flops(tokens) + 2 * tokens * generator


class JetNemotron(Jet):
    """Jet with the details of Jet-Nemotron's published weights, so that these can be read.

    alpha = exp(-exp(A_log) softplus(w_decay x + c)), beta has no bias, the kernel's generator has heads * value_dim / 8
    hidden channels, and the output's norm an eps of 1e-5. It starts with the decay of `Jet`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.beta = nn.Linear(config.d_model, self.heads, bias=False)
        self.norm = nn.RMSNorm(self.value_dim, eps=JET_NEMOTRON_EPS)
        self.A_log = nn.Parameter(torch.zeros(self.heads))

    @staticmethod
    def generator_width(config: ModelConfig) -> int:
        return max(1, config.fast_heads * config.value_dim // JET_REDUCTION)

    def log_decay(self, x: Tensor) -> Tensor:
        return self.A_log.exp() * super().log_decay(x)
