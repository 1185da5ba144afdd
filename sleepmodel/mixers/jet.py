"""Jet-Nemotron's mixer: gated delta fast weights with a dynamic convolution on the values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sleepmodel.config.model import JET_KERNEL, ModelConfig
from sleepmodel.mixers.base import RMSNorm, zero_linear
from sleepmodel.mixers.gated_delta import GatedDelta

JET_REDUCTION = 8
JET_NEMOTRON_EPS = 1e-5


class Jet(GatedDelta):
    """Jet-Nemotron's block: GatedDelta whose values pass through a dynamic convolution.

    Each value becomes a causal, depthwise convolution of the latest 4 values. Its kernel is computed from the token; an
    untrained one is the identity. The state is a ConvolvedState; `config.conv` convolves q and k, as in GatedDelta.
    """

    convolved = ("q", "k")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.add_kernel(config, "v", "jet", JET_KERNEL)
        channels = self.heads * self.value_dim
        self.kernel_in = nn.Linear(config.d_model, self.generator_width(config), bias=False)
        self.kernel_out = zero_linear(self.kernel_in.out_features, channels * JET_KERNEL, bias=True)
        with torch.no_grad():
            self.kernel_out.bias.view(channels, JET_KERNEL)[:, -1].fill_(1)

    @staticmethod
    def generator_width(config: ModelConfig) -> int:
        """Hidden channels between the two layers that compute the kernel."""
        return max(1, config.d_model // JET_REDUCTION)

    def kernel(self, name: str, x: Tensor) -> Tensor:
        if name != "v":
            return super().kernel(name, x)
        kernel = self.kernel_out(F.silu(self.kernel_in(x)))
        return kernel.unflatten(-1, (-1, JET_KERNEL)).movedim(-1, 0)

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
        self.norm = RMSNorm(self.value_dim, eps=JET_NEMOTRON_EPS)
        self.A_log = nn.Parameter(torch.zeros(self.heads))

    @staticmethod
    def generator_width(config: ModelConfig) -> int:
        return max(1, config.fast_heads * config.value_dim // JET_REDUCTION)

    def log_decay(self, x: Tensor) -> Tensor:
        return self.A_log.exp() * super().log_decay(x)
