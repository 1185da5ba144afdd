"""How a token is drawn from logits."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_TEMPERATURE = 1e-6  # below it nothing but the likeliest token is left


def _choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """One token of each row of logits [B, vocab]: int64 [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = (logits - logits.amax(-1, keepdim=True)) / max(temperature, MIN_TEMPERATURE)
    probability, token = scaled.softmax(-1).sort(-1, descending=True)
    # a token is kept as long as those before it hold less than top_p, the likeliest one always
    kept = probability.cumsum(-1) - probability < top_p
    kept[:, 0] = True
    probability = probability * kept
    return token.gather(1, torch.multinomial(probability, 1, generator=generator))[:, 0]
