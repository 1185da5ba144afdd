"""Greedy answers by the training forward, one token at a time: what every other way of answering is held to."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel import SleepModel


@torch.no_grad()
def greedy(model: SleepModel, tokens: Tensor, n: int) -> Tensor:
    """int64 [B, n] behind prompts tokens int64 [B, T]. Raises ValueError where the forward does."""
    for _ in range(n):
        tokens = F.pad(tokens, (0, 1))
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        mask[:, -1] = True
        tokens[:, -1] = model(tokens, mask).logits.argmax(-1)
    return tokens[:, -n:]
