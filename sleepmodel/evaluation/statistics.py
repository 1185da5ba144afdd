"""Shares, means and their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
RESAMPLES = 2000

Interval = tuple[float, float]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """How many of `total` are right; interval: of the share, 95 %, where `score` was asked for it."""

    right: int
    total: int
    interval: Interval | None = None

    @property
    def value(self) -> float:
        return self.right / self.total


def bootstrap(hits: Int64, total: Int64, resamples: int = RESAMPLES, seed: int = 0) -> list[Interval]:
    """Percentile bootstrap over rows (Efron 1979), as answers of one row hang together: an interval a column.

    hits, total: int64 [n, columns], right and asked of each row. Rows in another order give the same intervals. Where
    all or none are right no resample differs, so that Wilson's interval stands in, on as many draws as rows were asked.
    """
    # resampling n rows is one multinomial draw over the different ones, of which there are often few
    kinds, times = np.unique(np.concatenate([hits, total], axis=1), axis=0, return_counts=True)
    stream = np.random.Generator(np.random.PCG64(seed))
    drawn = stream.multinomial(len(hits), times / len(hits), size=resamples)
    right, asked = np.split(drawn.astype(np.float64) @ kinds, 2, axis=1)
    shares = np.divide(right, asked, out=np.full_like(right, np.nan), where=asked > 0)
    low, high = np.nanquantile(shares, TAILS, axis=0)
    share = hits.sum(0) / total.sum(0)
    return [
        _wilson(int(p), int(n)) if p in (0, 1) else (float(a), float(b))
        for p, n, a, b in zip(share, (total > 0).sum(0), low, high, strict=True)
    ]


def _wilson(share: int, total: int) -> Interval:
    """Wilson's interval where none (share 0) or all (1) of `total` are right."""
    low, high = stats.binomtest(share * total, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with Student's 95 % interval; infinitely wide for a single seed."""

    mean: float
    half_width: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        n = len(values)
        if n < 2:
            return cls(float(np.mean(values)), math.inf, n)
        spread = float(np.std(values, ddof=1)) / math.sqrt(n)
        return cls(float(np.mean(values)), float(stats.t.ppf(TAILS[1], n - 1)) * spread, n)

    @property
    def interval(self) -> Interval:
        """Of a mean of shares: cut to [0, 1]."""
        return max(0.0, self.mean - self.half_width), min(1.0, self.mean + self.half_width)


@dataclass(frozen=True)
class Estimate:
    """A share and its 95 % interval: over seeds where there are several, else over the test rows."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"

    @classmethod
    def of(cls, seeds: Sequence[Share]) -> Estimate:
        """From the share of each seed; that of a single one must have its interval."""
        if len(seeds) == 1:
            assert seeds[0].interval is not None
            return cls(seeds[0].value, seeds[0].interval)
        mean = Mean.of([share.value for share in seeds])
        return cls(mean.mean, mean.interval)
