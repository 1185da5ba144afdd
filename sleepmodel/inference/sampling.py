"""Sampling of tokens from logits."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_TEMPERATURE = 1e-6  # at lower ones the most likely token has all the probability
NONE = -1  # in place of a token where there is none to choose


def choose_tokens(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Choose a token from each row of logits [B, vocab]; returns int64 [B]. Temperature 0 takes the most likely one.

    A row whose largest logit is not finite has NONE: to raise an error here, the host would have to wait for a GPU.
    """
    largest = logits.amax(-1)  # nan if any is
    token = (
        logits.argmax(-1) if temperature == 0 else _sampled(logits - largest[:, None], temperature, top_p, generator)
    )
    return token.masked_fill(~largest.isfinite(), NONE)


def _sampled(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """A token from each row of logits whose largest is 0."""
    probability, token = (logits / max(temperature, MIN_TEMPERATURE)).softmax(-1).sort(-1, descending=True)
    # keep a token if those before it have a probability below top_p in sum; always keep the most likely one
    kept = probability.cumsum(-1) - probability < top_p
    kept[:, 0] = True
    probability = probability * kept
    # what torch.multinomial does, without the checks for which it waits for a GPU
    draws = torch.empty_like(probability).exponential_(generator=generator)
    return token.gather(1, (probability / draws).argmax(-1, keepdim=True))[:, 0]
