"""Nats by position: how well a model predicts a token that is preceded by few or many tokens of its window, and by few
or many windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from sleepmodel.evaluation.accuracy import Predictions
from sleepmodel.evaluation.statistics import RESAMPLES, Estimate, Float64, Int64, intervals_of, resampled_ratios

Float32 = npt.NDArray[np.float32]

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
    within, windows = _places(rows, window)
    if not within.any():
        return None
    nats = [predicted.nats]
    (tokens_read,) = _binned(nats, _tokens_read(within), _within_bounds(window), resamples)
    # 0, 1, 2-3, 4-7, ... windows
    (windows_read,) = _binned(
        nats, np.where(windows >= 0, _doublings(windows), -1), lambda k: (2**k // 2, max(2**k - 1, 0)), resamples
    )
    return NatsByPosition(window, tokens_read, windows_read)


def differences_by_position(
    predicted: Sequence[Predictions], rows: Rows, window: int, resamples: int = RESAMPLES
) -> list[list[list[PositionBin]]]:
    """For each model the nats by the tokens of the window that it has read, less those of each model before it: in the
    bins of `NatsByPosition.within`, and last in one of all tokens after the first window. [] where there are none.

    Both models predict the same tokens, so intervals are of paired differences: each resample of the rows is one for
    all models.
    """
    within, _ = _places(rows, window)
    if not within.any():
        return []
    nats = [each.nats for each in predicted]
    by_tokens, of_all = _tokens_read(within), np.where(within > 0, 0, -1)
    bounds = _within_bounds(window)
    return [
        [by + all_ for by, all_ in zip(first, second, strict=True)]
        for first, second in zip(
            _differences(nats, by_tokens, bounds, resamples),
            _differences(nats, of_all, lambda _: (1, window), resamples),
            strict=True,
        )
    ]


def _places(rows: Rows, window: int) -> tuple[Int64, Int64]:
    """For each token the number of tokens of the current window that are read when it is predicted, 0 in the first
    window, and of whole windows, -1 where it is no answer: int64 [n, T]."""
    mask, pads = rows.loss_mask(), rows.pads[:, None]
    before = np.arange(mask.shape[1]) - 1  # the place that predicts
    begin = before // window * window
    windows = np.where(mask, begin // window - pads // window, -1)
    return np.where(windows > 0, before - np.maximum(begin, pads) + 1, 0), windows


def _tokens_read(within: Int64) -> Int64:
    return np.where(within > 0, _doublings(within - 1), -1)


def _within_bounds(window: int) -> Callable[[int], tuple[int, int]]:
    """1, 2, 3-4, 5-8, ... tokens, which end at L if it is a power of two."""
    return lambda k: (2**k // 2 + 1, min(2**k, window))


def _doublings(values: Int64) -> Int64:
    """0 for 0, and k for 2^(k - 1) to 2^k - 1."""
    return np.frexp(values.clip(min=0))[1].astype(np.int64)


def _binned(
    nats: Sequence[Float32], bins: Int64, bounds: Callable[[int], tuple[int, int]], resamples: int
) -> list[list[PositionBin]]:
    """For each model the bins that have tokens. nats: of each model, [n, T]; bins: the number of each token's bin,
    int64 [n, T]; -1: in none; bounds: of a bin."""
    numbers, tokens, means, drawn = _resampled(nats, bins, resamples)
    return [
        _bins(numbers, tokens, mean, ratios, bounds) for mean, ratios in zip(means, drawn.swapaxes(0, 1), strict=True)
    ]


def _differences(
    nats: Sequence[Float32], bins: Int64, bounds: Callable[[int], tuple[int, int]], resamples: int
) -> list[list[list[PositionBin]]]:
    """For each model the bins of its nats less those of each model before it."""
    numbers, tokens, means, drawn = _resampled(nats, bins, resamples)
    return [
        [_bins(numbers, tokens, means[i] - means[j], drawn[:, i] - drawn[:, j], bounds) for j in range(i)]
        for i in range(len(nats))
    ]


def _resampled(nats: Sequence[Float32], bins: Int64, resamples: int) -> tuple[Int64, Int64, Float64, Float64]:
    """The numbers of the bins that have tokens, how many tokens, the mean nats [models, bins], and those of each
    resample of the rows [resamples, models, bins]."""
    numbers = np.unique(bins[bins >= 0])
    inside = [bins == number for number in numbers]
    sums = np.stack([(each * which).sum(1, dtype=np.float64) for each in nats for which in inside], axis=1)
    counts = np.stack([which.sum(1) for which in inside], axis=1)
    shape = len(nats), len(numbers)
    drawn = resampled_ratios(sums, np.tile(counts, len(nats)), resamples)
    tokens = counts.sum(0)
    return numbers, tokens, sums.sum(0).reshape(shape) / tokens, drawn.reshape(-1, *shape)


def _bins(
    numbers: Int64, tokens: Int64, means: Float64, drawn: Float64, bounds: Callable[[int], tuple[int, int]]
) -> list[PositionBin]:
    return [
        PositionBin(*bounds(number), count, Estimate(mean, interval))
        for number, count, mean, interval in zip(
            numbers.tolist(), tokens.tolist(), means.tolist(), intervals_of(drawn), strict=True
        )
    ]
