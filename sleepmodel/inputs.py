"""What a batch asks of a model, which windows are predicted and which are slept on, and checks of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from datagen.checks import require
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Truncation


def predictors(loss_mask: Tensor) -> Tensor:
    """The tokens from which answers are predicted, each answer from the token before it: bool [B, T]."""
    return F.pad(loss_mask[:, 1:], (0, 1))


def predicting_windows(loss_mask: Tensor, window: int) -> Tensor:
    """The windows in which answers are predicted: bool [B, windows]."""
    return any_in_window(predictors(loss_mask), window)


def any_in_window(wanted: Tensor, window: int) -> Tensor:
    """Whether anything in a window is wanted: bool [B, T] -> bool [B, windows]."""
    return F.pad(wanted, (0, -wanted.shape[1] % window)).unflatten(1, (-1, window)).any(2)


def sleeping_windows(tokens: Tensor, asked: Tensor, config: ModelConfig) -> Tensor:
    """The windows that rows sleep on: bool [B, windows]. They have tokens, and answers are predicted in a later one.
    asked: the windows in which answers are predicted, as `predicting_windows` returns them."""
    filled = any_in_window(tokens >= 0, config.window)
    slept = filled & (asked.flip(1).cumsum(1).flip(1) > asked.long())
    return slept if config.sleep_on == "all" else slept & ~asked


def used_labels(traces: Tensor, tokens: Tensor, asleep: Tensor, window: int) -> Tensor:
    """The labels of `traces` that count, others as -1: int64 [B, P, T]. asleep: the windows that rows sleep on."""
    slept = asleep.repeat_interleave(window, 1)[:, : tokens.shape[1]]
    return torch.where((slept & (tokens >= 0))[:, None] & (traces >= 0), traces, -1)


def check_traces(traces: Tensor, tokens: Tensor, passes: int, config: ModelConfig, truncation: Truncation) -> None:
    """Raise ValueError if `traces` is not int64 [B, P, T] with the B and T of tokens, if a label is not in the
    vocabulary, if there are more traces than passes that can have one, or if the truncation leaves passes without a
    gradient. passes: N."""
    if traces.dtype != torch.int64 or traces.dim() != 3 or traces.shape[::2] != tokens.shape:
        raise ValueError(
            f"traces {list(traces.shape)} ({traces.dtype}): must be [{len(tokens)}, P, {tokens.shape[1]}], int64"
        )
    count, reads = traces.shape[1], int(config.reads_first)
    if count + reads > passes:
        raise ValueError(f"traces of {counted_passes(count)}: {limit_of_traces(passes, config)}")
    require(truncation.passes is None, "truncation.passes", truncation.passes, "null with traces; use truncation.every")
    if traces.numel() and int(traces.max()) >= config.vocab_size:
        row, trace, column = map(int, (traces >= config.vocab_size).nonzero()[0])
        limit = f"must be below vocab_size = {config.vocab_size}, or negative where there is no label"
        raise ValueError(f"traces[{row}, {trace}, {column}] = {int(traces[row, trace, column])}: {limit}")


def counted_passes(count: int) -> str:
    return f"{count} pass" if count == 1 else f"{count} passes"


def limit_of_traces(passes: int, config: ModelConfig) -> str:
    """Of how many passes there may be traces, and why, for an error message. passes: N."""
    first = ", the first of which only reads" if config.reads_first else ""
    return f"must be at most {passes - config.reads_first}, as N = {passes}{first}"


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
    mask, window = loss_mask, config.window
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
        row, column = map(int, (mask & ~(real & before)).nonzero()[0])
        if not real[row, column]:
            why = "must not be at a pad"
        elif not real[row, :column].any():
            why = "must not be at the first token of a row, which nothing can predict"
        else:
            why = (
                f"must not be at the first token of a window of {window} tokens, which nothing before it in the window "
                'can predict; sleep_on = "all" predicts it from the window before'
            )
        raise ValueError(f"loss_mask[{row}, {column}]: an answer {why}")
    if not mask.any():
        raise ValueError("loss_mask: must have at least one answer")
