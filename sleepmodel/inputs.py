"""Checks the batch that a model gets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel.config.model import ModelConfig


def predictors(loss_mask: Tensor) -> Tensor:
    """The tokens from which answers are predicted, each answer from the token before it: bool [B, T]."""
    return F.pad(loss_mask[:, 1:], (0, 1))


def predicting_windows(loss_mask: Tensor, window: int) -> Tensor:
    """The windows in which answers are predicted: bool [B, windows], on the CPU."""
    asked = predictors(loss_mask.cpu())
    return F.pad(asked, (0, -asked.shape[1] % window)).unflatten(1, (-1, window)).any(2)


def check_batch(tokens: Tensor, loss_mask: Tensor, config: ModelConfig) -> None:
    """Raise ValueError if the model cannot read a batch: if shapes or dtypes differ, a token is not in the vocabulary,
    a row is longer than max_positions, there are pads between tokens, nothing can predict an answer, or there is none.

    tokens: int64 [B, T], negative at pads; loss_mask: bool [B, T], True at answer tokens.
    """
    kinds = (tokens.dtype, loss_mask.dtype) == (torch.int64, torch.bool)
    if tokens.dim() != 2 or tokens.shape != loss_mask.shape or not kinds or not tokens.numel():
        raise ValueError(
            f"tokens {tuple(tokens.shape)} ({tokens.dtype}) and loss_mask {tuple(loss_mask.shape)} "
            f"({loss_mask.dtype}): must both be [B, T] with at least one token, int64 and bool"
        )
    tokens, mask, window = tokens.cpu(), loss_mask.cpu(), config.window
    real = tokens >= 0
    longest, most = int(real.sum(1).max()), config.max_positions
    if most is not None and longest > most:
        raise ValueError(f"row length {longest}: must be at most max_positions = {most}")
    if int(tokens.max()) >= config.vocab_size:
        row, column = map(int, (tokens >= config.vocab_size).nonzero()[0])
        limit = f"must be below vocab_size = {config.vocab_size}, or negative at a pad"
        raise ValueError(f"tokens[{row}, {column}] = {int(tokens[row, column])}: {limit}")
    before = F.pad(real, (1, 0))[:, :-1]
    if ((real & ~before).sum(1) > 1).any():
        row = int(((real & ~before).sum(1) > 1).nonzero()[0])
        raise ValueError(f"row {row}: has pads between its tokens; pads may only be at the ends of a row")
    if config.sleep_on == "prompts":
        before[:, ::window] = False
    if (mask & ~(real & before)).any():
        row = int((mask & ~(real & before)).nonzero()[0, 0])
        first, remedy = "the row", ""
        if config.sleep_on == "prompts":
            first, remedy = f"a window of {window} tokens", ' (sleep_on = "all" predicts it from the window before)'
        raise ValueError(
            f"row {row}: an answer is the first token of {first}, where nothing can predict it{remedy}, or a pad"
        )
    if not mask.any():
        raise ValueError("loss_mask: must have at least one answer")
