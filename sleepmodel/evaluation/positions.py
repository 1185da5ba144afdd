"""Nats by position: how well a model predicts a token that is preceded by few or many tokens of its window, and by few
or many windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from sleepmodel.evaluation.accuracy import Predictions
from sleepmodel.evaluation.statistics import RESAMPLES, Estimate, Float64, Int64, intervals_of, resampled_ratios

LEAST_ANSWERS = 0.5  # of the tokens of all rows

Bins = dict[tuple[int, int], npt.NDArray[np.bool_]]  # first and last of a bin -> its tokens, [n, T]


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
    of whole windows that it has read before. less: these nats less those of other models, by their names, as
    `differences_by_position` returns them.
    """

    window: int
    within: list[PositionBin]
    windows: list[PositionBin]
    less: dict[str, list[PositionBin]] = field(default_factory=dict)


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
    within, windows = _read_before(rows, window)
    if not within.any():
        return None

    def measured(bins: Bins) -> list[PositionBin]:
        (means,), drawn = _resampled([predicted.nats], bins, resamples)
        return _bins(bins, means, drawn[:, 0])

    return NatsByPosition(window, measured(_by_tokens(within, window)), measured(_by_windows(windows)))


def differences_by_position(
    predicted: Sequence[Predictions], rows: Rows, window: int, resamples: int = RESAMPLES
) -> list[list[list[PositionBin]]]:
    """For each model the nats by the tokens of the window that it has read, less those of each model before it: in the
    bins of `NatsByPosition.within`, and last in one of all tokens after the first window. [] if there are no such
    tokens.

    All models predict the same tokens, and each resample of the rows is one for all of them, so the intervals are of
    paired differences.
    """
    within, _ = _read_before(rows, window)
    if not within.any():
        return []
    bins = {**_by_tokens(within, window), (1, window): within > 0}
    means, drawn = _resampled([each.nats for each in predicted], bins, resamples)
    return [
        [_bins(bins, means[i] - means[j], drawn[:, i] - drawn[:, j]) for j in range(i)] for i in range(len(predicted))
    ]


def _read_before(rows: Rows, window: int) -> tuple[Int64, Int64]:
    """What is read when each token is predicted, int64 [n, T]: the tokens of the current window, 0 in the first one;
    and the whole windows, -1 where the token is no answer."""
    mask, pads = rows.loss_mask(), rows.pads[:, None]
    before = np.arange(mask.shape[1]) - 1  # the position that predicts
    begin = before // window * window
    windows = np.where(mask, begin // window - pads // window, -1)
    return np.where(windows > 0, before - np.maximum(begin, pads) + 1, 0), windows


def _by_tokens(within: Int64, window: int) -> Bins:
    """1, 2, 3-4, 5-8, ... tokens, which end at L if it is a power of two."""
    bins = np.where(within > 0, _doublings(within - 1), -1)
    return {(2**k // 2 + 1, min(2**k, window)): bins == k for k in _numbers(bins)}


def _by_windows(windows: Int64) -> Bins:
    """0, 1, 2-3, 4-7, ... windows."""
    bins = np.where(windows >= 0, _doublings(windows), -1)
    return {(2**k // 2, max(2**k - 1, 0)): bins == k for k in _numbers(bins)}


def _numbers(bins: Int64) -> list[int]:
    """The bins that have tokens."""
    numbers: list[int] = np.unique(bins[bins >= 0]).tolist()
    return numbers


def _doublings(values: Int64) -> Int64:
    """0 for 0, and k for 2^(k - 1) to 2^k - 1."""
    return np.frexp(values.clip(min=0))[1].astype(np.int64)


def _resampled(nats: Sequence[npt.NDArray[np.float32]], bins: Bins, resamples: int) -> tuple[Float64, Float64]:
    """The mean nats of each model [models, bins], and those in each resample of the rows [resamples, models, bins].
    nats: of each model, [n, T]."""
    sums = np.stack([(each * mask).sum(1, dtype=np.float64) for each in nats for mask in bins.values()], axis=1)
    counts = np.tile(np.stack([mask.sum(1) for mask in bins.values()], axis=1), len(nats))
    drawn = resampled_ratios(sums, counts, resamples)
    shape = len(nats), len(bins)
    return (sums.sum(0) / counts.sum(0)).reshape(shape), drawn.reshape(-1, *shape)


def _bins(bins: Bins, means: Float64, drawn: Float64) -> list[PositionBin]:
    """means: of each bin; drawn: [resamples, bins]."""
    return [
        PositionBin(*bounds, int(mask.sum()), Estimate(mean, interval))
        for (bounds, mask), mean, interval in zip(bins.items(), means.tolist(), intervals_of(drawn), strict=True)
    ]
