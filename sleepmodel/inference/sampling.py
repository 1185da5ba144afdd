"""Sampling of tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_TEMPERATURE = 1e-6  # at lower ones the most likely token has all the probability


def choose_tokens(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Choose a token from each row of logits [B, vocab]; returns int64 [B]. Temperature 0 takes the most likely one."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = (logits - logits.amax(-1, keepdim=True)) / max(temperature, MIN_TEMPERATURE)
    probability, token = scaled.softmax(-1).sort(-1, descending=True)
    # keep a token if those before it have a probability below top_p in sum; always keep the most likely one
    kept = probability.cumsum(-1) - probability < top_p
    kept[:, 0] = True
    probability = probability * kept
    # what torch.multinomial does, without the checks for which it waits for a GPU
    draws = torch.empty_like(probability).exponential_(generator=generator)
    return token.gather(1, (probability / draws).argmax(-1, keepdim=True))[:, 0]
