"""Accuracy against passes: a model whose sleeps end by a rule, beside sleeps with a fixed N."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datagen.checks import require, require_whole
from datagen.rows import Rows
from sleepmodel.config.model import ModelConfig
from sleepmodel.evaluation.accuracy import (
    BATCH_LOGITS,
    Accuracy,
    Predictions,
    batch_rows,
    check_rows,
    judged,
    no_predictions,
    predict,
    score,
)
from sleepmodel.evaluation.statistics import RESAMPLES, Int64
from sleepmodel.halting import Halting
from sleepmodel.inference.session import Session
from sleepmodel.inputs import predicting_windows, predictors, sleeping_windows
from sleepmodel.model import SleepModel


class HaltedPredictions(NamedTuple):
    """The predictions of n rows, and how often each of them slept and with how many passes in all, int64 [n]."""

    predicted: Predictions
    sleeps: Int64
    passes: Int64


@dataclass(frozen=True)
class Measured:
    """The accuracy of a model at one setting.

    halting: None: every sleep has N passes. most: N. passes: the mean over all sleeps of all rows; depths: the same of
    the rows whose deepest answer has that depth.
    """

    halting: Halting | None
    most: int
    passes: float
    accuracy: Accuracy
    depths: dict[int, float]


def measure_passes(
    model: SleepModel,
    rows: Rows,
    fixed: Iterable[int],
    rules: Iterable[Halting],
    most: int,
    resamples: int = RESAMPLES,
) -> Iterator[Measured]:
    """The accuracy at each fixed N, then with each rule and at most `most` passes, one after the other.

    Raises the errors of `check_measurable`, before the first of them.
    """
    rules = tuple(rules)
    check_measurable(model, rows, rules, most)
    for n in fixed:
        exact = score(predict(model, rows, n).tokens, rows, resamples)
        yield Measured(None, n, n, exact, dict.fromkeys(np.unique(rows.depths).tolist(), float(n)))
    for halting in rules:
        found = predict_halting(model, rows, halting, most)
        exact = score(found.predicted.tokens, rows, resamples)
        depths = np.unique(rows.depths[found.sleeps > 0]).tolist()
        passes = {depth: _mean(found, rows.depths == depth) for depth in depths}
        yield Measured(halting, most, _mean(found, found.sleeps > 0), exact, passes)


def check_measurable(model: SleepModel, rows: Rows, rules: Iterable[Halting], most: int) -> None:
    """Raise ValueError if there are no rows, if none has a window to sleep on, or if a rule can have no effect within
    `most` passes."""
    for halting in rules:
        halting.check(model, most)
    config = model.config
    batches = _batches(rows, batch_rows(rows, config.vocab_size))
    asked = ((tokens, predicting_windows(mask, config.window)) for _, tokens, mask in batches)
    slept = any(bool(sleeping_windows(tokens, windows, config).any()) for tokens, windows in asked)
    require(slept, "window", config.window, "so short that it ends before the answers of some row, for a sleep")


def predict_halting(
    model: SleepModel, rows: Rows, halting: Halting, most: int, batch_size: int | None = None
) -> HaltedPredictions:
    """As `predict`, but each sleep of a row ends by the rule, or after `most` passes. Raises ValueError as `predict`
    does, and as `Halting.check`."""
    check_rows(rows)
    counts = (np.zeros(len(rows), np.int64) for _ in range(2))
    found = HaltedPredictions(no_predictions((len(rows), int(rows.lengths.max()))), *counts)
    size = _batch_rows(rows, model.config) if batch_size is None else batch_size
    require_whole("batch_size", size, 1)
    for part, tokens, mask in _batches(rows, size):
        # rows that are asked in the same windows sleep on the same ones
        kinds, kind = predicting_windows(mask, model.config.window).unique(dim=0, return_inverse=True)
        for i, asked in enumerate(kinds.tolist()):
            of_kind = kind == i
            session = Session(model, int(of_kind.sum()), sleep_passes=most, halting=halting)
            _read(session, tokens[of_kind], mask[of_kind], asked, found, part[of_kind.numpy()])
    return found


def _batch_rows(rows: Rows, config: ModelConfig) -> int:
    """As `batch_rows`, but a session returns the logits of all tokens of a window with answers."""
    logits = min(config.window, int(rows.lengths.max())) * config.vocab_size
    return min(batch_rows(rows, config.vocab_size), max(1, BATCH_LOGITS // logits))


def _batches(rows: Rows, size: int) -> Iterator[tuple[Int64, Tensor, Tensor]]:
    """Batches of rows, in order: (their numbers, tokens, the mask of their answers)."""
    for start in range(0, len(rows), size):
        part = np.arange(start, min(start + size, len(rows)))
        tokens, mask = map(torch.from_numpy, rows.batch(part))
        yield part, tokens, mask


def _read(
    session: Session, tokens: Tensor, mask: Tensor, asked: list[bool], found: HaltedPredictions, rows: Int64
) -> None:
    """Read rows up to their last answer, and write what is found into these `rows` of `found`. asked: the windows in
    which their answers are predicted."""
    config, most = session.model.config, session.sleep_passes
    last, predicting = max(i for i, wanted in enumerate(asked) if wanted), predictors(mask)
    for i, begin in enumerate(range(0, (last + 1) * config.window, config.window)):
        here = slice(begin, begin + config.window)
        # as in training, a window with answers is read once, unless the model sleeps on all
        asleep = i < last and (config.sleep_on == "all" or not asked[i])
        session.sleep_passes = most if asleep else 1
        sleeps, passes = session.sleeps, session.passes
        logits = session.read(tokens[:, here], last=not asked[i])
        if asleep:
            found.sleeps[rows] += (session.sleeps - sleeps).cpu().numpy()
            found.passes[rows] += (session.passes - passes).cpu().numpy()
        if asked[i]:
            row, column = predicting[:, here].nonzero(as_tuple=True)
            answers = row, column + begin + 1
            at = rows[row.numpy()], answers[1].numpy()
            of_answers = judged(logits[row, column], tokens[answers].to(logits.device))
            found.predicted.tokens[at], found.predicted.nats[at] = of_answers


def _mean(found: HaltedPredictions, rows: npt.NDArray[np.bool_]) -> float:
    """The mean passes of the sleeps of these rows."""
    return float(found.passes[rows].sum() / found.sleeps[rows].sum())
