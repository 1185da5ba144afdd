"""The same architecture built from transformers' own gated-delta modules: the peer of benchmarks/model.py.

It implements Algorithm 1 directly: window by window, all blocks in every pass, with the recurrent state in the cache
object that the modules expect.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen3NextConfig
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from sleepmodel import ModelConfig
from sleepmodel.blocks import MLP
from sleepmodel.mixers.attention import Attention
from sleepmodel.mixers.base import Span


class RecurrentState:
    """The cache interface of Qwen3NextGatedDeltaNet, for one layer, without the state of a convolution."""

    def __init__(self) -> None:
        self.state: Tensor | None = None

    def get_conv_state(self, layer: int, state_idx: int) -> None:
        return None

    def update_conv_state(self, inputs: Tensor, layer: int, conv_kernel_size: int) -> Tensor:
        return inputs

    def get_recurrent_state(self, layer: int, state_idx: int) -> Tensor | None:
        return self.state

    def update_recurrent_state(self, state: Tensor, layer: int) -> None:
        self.state = state


class PeerModel(nn.Module):
    """Our attention, MLP, norms and embeddings with transformers' fast-weight layers, whose convolution has width 1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, width = config, config.d_model
        qwen = Qwen3NextConfig(
            hidden_size=width,
            linear_num_value_heads=config.fast_heads,
            linear_num_key_heads=config.fast_heads,
            linear_key_head_dim=config.key_dim,
            linear_value_head_dim=config.value_dim,
            linear_conv_kernel_dim=1,
            num_hidden_layers=1,
            layer_types=["linear_attention"],
        )
        self.embed = nn.Embedding(config.vocab_size, width)
        self.position_embed = nn.Embedding(cast(int, config.max_positions), width)
        self.mixers = nn.ModuleList(
            Attention(config) if mixer == "attention" else Qwen3NextGatedDeltaNet(qwen, 0) for mixer in config.mixers
        )
        self.mlps = nn.ModuleList(MLP(config) for _ in config.mixers)
        self.mixer_norms, self.mlp_norms = (nn.ModuleList(nn.RMSNorm(width) for _ in config.mixers) for _ in range(2))
        self.norm = nn.RMSNorm(width)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, loss_mask: Tensor) -> Tensor:
        """The mean cross-entropy of a batch whose rows have their answers in the same windows. Shapes as in
        SleepModel.forward."""
        caches, losses = [RecurrentState() for _ in self.mixers], []
        position = torch.arange(tokens.shape[1])
        window = self.config.window
        for part, mask, at in zip(
            tokens.split(window, 1), loss_mask.split(window, 1), position.split(window), strict=True
        ):
            h, answers = self.embed(part) + self.position_embed(at), bool(mask.any())
            for _ in range(1 if answers else self.config.sleep_passes):
                h = self.one_pass(h, caches)
            if answers:
                read = h[:, :-1][mask[:, 1:]]
                losses.append(F.cross_entropy(self.lm_head(self.norm(read)), part[mask]))
        return torch.stack(losses).mean()

    def one_pass(self, h: Tensor, caches: list[RecurrentState]) -> Tensor:
        span = Span.whole(h.shape[1], h.device)
        for i, (mixer, mlp) in enumerate(zip(self.mixers, self.mlps, strict=True)):
            x = self.mixer_norms[i](h)
            if isinstance(mixer, Attention):
                y, _ = mixer(x, mixer.initial_state(len(x)), span)
            else:
                y = mixer(x, cache_params=caches[i])
            h = h + y
            h = h + mlp(self.mlp_norms[i](h))
        return h
