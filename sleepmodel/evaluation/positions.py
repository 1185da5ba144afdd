"""Nats by position: how well a model predicts a token that is preceded by few or many tokens of its window, and by few
or many windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from datagen.rows import Rows
from sleepmodel.evaluation.accuracy import Predictions
from sleepmodel.evaluation.statistics import RESAMPLES, Estimate, Int64, intervals_of, resampled_ratios

LEAST_ANSWERS = 0.5  # of the tokens of all rows


@dataclass(frozen=True)
class PositionBin:
    """Answer tokens whose count of something is `first` to `last`: how many they are, and their mean cross-entropy."""

    first: int
    last: int
    tokens: int
    nats: Estimate

    @property
    def name(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class NatsByPosition:
    """Nats per answer token, in bins that double in width.

    window: L. within: by the number of tokens, 1 to L, of the current window that the model has read when it predicts;
    the first window is left out. At 1, the model has little but its memory of earlier windows. windows: by the number
    of whole windows that it has read before.
    """

    window: int
    within: list[PositionBin]
    windows: list[PositionBin]


def are_documents(rows: Rows) -> bool:
    """Whether answers fill so much of the rows (LEAST_ANSWERS) that their position says something."""
    return bool(rows.loss_mask().sum() >= LEAST_ANSWERS * (rows.lengths - rows.pads).sum())


def measure_by_position(
    predicted: Predictions, rows: Rows, window: int, resamples: int = RESAMPLES
) -> NatsByPosition | None:
    """Nats by position in windows of `window` tokens; None if no answer comes after the first window.

    A token is predicted from the one before it, which for the first token of a window lies in the window before.
    Intervals are bootstrapped over rows.
    """
    mask, pads = rows.loss_mask(), rows.pads[:, None]
    before = np.arange(mask.shape[1]) - 1  # the place that predicts
    begin = before // window * window
    windows = np.where(mask, begin // window - pads // window, -1)
    within = np.where(windows > 0, before - np.maximum(begin, pads) + 1, 0)
    if not within.any():
        return None
    tokens_read = np.where(within > 0, _doublings(within - 1), -1)
    windows_read = np.where(mask, _doublings(windows), -1)
    return NatsByPosition(
        window,
        # 1, 2, 3-4, 5-8, ... tokens, which end at L if it is a power of two; 0, 1, 2-3, 4-7, ... windows
        _binned(predicted, tokens_read, lambda k: (2**k // 2 + 1, min(2**k, window)), resamples),
        _binned(predicted, windows_read, lambda k: (2**k // 2, max(2**k - 1, 0)), resamples),
    )


def _doublings(values: Int64) -> Int64:
    """0 for 0, and k for 2^(k - 1) to 2^k - 1."""
    return np.frexp(values.clip(min=0))[1].astype(np.int64)


def _binned(
    predicted: Predictions, bins: Int64, bounds: Callable[[int], tuple[int, int]], resamples: int
) -> list[PositionBin]:
    """The bins that have tokens. bins: the number of each token's bin, int64 [n, T]; -1: in none; bounds: of a bin."""
    numbers = np.unique(bins[bins >= 0])
    sums = np.stack([(predicted.nats * (bins == k)).sum(1, dtype=np.float64) for k in numbers], axis=1)
    counts = np.stack([(bins == k).sum(1) for k in numbers], axis=1)
    tokens, intervals = counts.sum(0), intervals_of(resampled_ratios(sums, counts, resamples))
    means = (sums.sum(0) / tokens).tolist()
    return [
        PositionBin(*bounds(number), count, Estimate(mean, interval))
        for number, count, mean, interval in zip(numbers.tolist(), tokens.tolist(), means, intervals, strict=True)
    ]
