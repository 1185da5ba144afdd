"""Shares and means with 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.checks import require

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
RESAMPLES = 2000

Interval = tuple[float, float]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
DRAWN = 2**22  # numbers that the bootstrap holds at a time
ROUNDING = 1e-12  # values closer than this differ by rounding alone


@dataclass(frozen=True)
class Share:
    """How many of `total` are right. interval: of the share, 95 %; None unless `score` was called with resamples."""

    right: int
    total: int
    interval: Interval | None = None

    @property
    def value(self) -> float:
        return self.right / self.total


def bootstrap(
    hits: Int64 | Float64, total: Int64 | Float64, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """95 % percentile bootstrap intervals (Efron 1979) of the share right, one for each column.

    hits, total: whole numbers [n, columns]: answers right and answers asked in each of n rows. If all answers of a
    column are right, or none, no resample differs: Wilson's interval is returned instead, with the rows that were asked
    as its trials.
    """
    intervals = intervals_of(resampled_ratios(hits, total, resamples, seed))
    share = hits.sum(0) / total.sum(0)
    return [
        _wilson(int(p), int(n)) if p in (0, 1) else interval
        for p, n, interval in zip(share, (total > 0).sum(0), intervals, strict=True)
    ]


def resampled_ratios(
    sums: Int64 | Float64, counts: Int64 | Float64, resamples: int = RESAMPLES, seed: int = 0
) -> Float64:
    """The sum of `sums` over that of `counts` (both [n, columns]) in each bootstrap resample of n rows: float64
    [resamples, columns]; NaN where the count is 0.

    Rows are resampled, not what is counted in them, as the answers of a row are correlated. The order of the rows does
    not matter.
    """
    # resampling n rows is one multinomial draw over the distinct rows, of which there are often few
    distinct, times = np.unique(np.concatenate([sums, counts], axis=1), axis=0, return_counts=True)
    stream = np.random.Generator(np.random.PCG64(seed))
    ratios = np.full((resamples, sums.shape[1]), np.nan)
    chunk = max(1, DRAWN // len(times))
    for start in range(0, resamples, chunk):
        part = ratios[start : start + chunk]
        drawn = stream.multinomial(len(sums), times / len(sums), size=len(part))
        above, below = np.split(drawn.astype(np.float64) @ distinct, 2, axis=1)
        np.divide(above, below, out=part, where=below > 0)
    return ratios


def intervals_of(resampled: Float64) -> list[Interval]:
    """The 95 % percentile interval of each column of [resamples, columns]."""
    low, high = np.nanquantile(resampled, TAILS, axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _wilson(share: int, total: int) -> Interval:
    """Wilson's interval if none (share 0) or all (share 1) of `total` are right."""
    from scipy import stats  # half a second, for which each training would wait

    low, high = stats.binomtest(share * total, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with Student's 95 % interval, which is infinitely wide for a single seed."""

    mean: float
    half_width: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        n = len(values)
        if n < 2:
            return cls(float(np.mean(values)), math.inf, n)
        from scipy import stats

        spread = _deviation(values) / math.sqrt(n)
        return cls(float(np.mean(values)), float(stats.t.ppf(TAILS[1], n - 1)) * spread, n)

    @property
    def interval(self) -> Interval:
        """The interval of a mean of shares, clipped to [0, 1]."""
        return max(0.0, self.mean - self.half_width), min(1.0, self.mean + self.half_width)

    @property
    def p_value(self) -> float:
        """Student's two-sided p-value of a true mean of 0: below .05 where the interval excludes 0. It is 1 where t is
        undefined: for a single seed, and for seeds that do not differ, which tell nothing of how far others would."""
        from scipy import stats

        if self.seeds < 2 or self.half_width == 0:
            return 1.0
        quantile = float(stats.t.ppf(TAILS[1], self.seeds - 1))
        return 2 * float(stats.t.sf(quantile * abs(self.mean) / self.half_width, self.seeds - 1))


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval: over seeds if there are several, else over the test rows."""

    value: float
    interval: Interval

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:z.3f} [{low:z.3f}, {high:z.3f}]"

    @classmethod
    def of(cls, seeds: Sequence[Share] | Sequence[Estimate], least: float = -math.inf) -> Estimate:
        """The estimate from that of each seed. An interval over seeds is clipped: to [0, 1] for shares, else to what is
        at least `least`. A single share must have an interval."""
        first = seeds[0]
        if len(seeds) == 1:
            assert first.interval is not None
            return cls(first.value, first.interval)
        mean = Mean.of([each.value for each in seeds])
        above = max(least, mean.mean - mean.half_width), mean.mean + mean.half_width
        return cls(mean.mean, mean.interval if isinstance(first, Share) else above)


def bootstrap_p_value(found: Estimate) -> float:
    """The two-sided p-value of a true value of 0, from a bootstrap interval over test rows, as if it were a normal
    distribution's (Altman and Bland 2011). It is 1 if no resample differs."""
    from scipy import stats

    low, high = found.interval
    if low == high:
        return 1.0
    return 2 * float(stats.norm.sf(float(stats.norm.ppf(TAILS[1])) * 2 * abs(found.value) / (high - low)))


def holm(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given. If each one below a level counts as a finding, the chance of
    any false finding among all of them is at most that level, however they depend on one another.

    family: the number of comparisons, if some have no p-value yet: they count as the largest ones.
    """
    count = len(p_values) if family is None else family
    require(count >= len(p_values), "family", count, f"at least {len(p_values)}, the number of p-values")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (count - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def hedges_g(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The effect size of paired values: the mean difference over the root mean square of the two standard deviations
    (Cumming's d_av), times Hedges' factor for few pairs. None if neither varies, or with fewer than three pairs: the
    factor of two is 0.

    The deviation of the differences, by which t divides, gives several times as much where pairs differ alike.
    """
    n = len(first)
    if n < 3:
        return None
    spread = math.hypot(_deviation(first), _deviation(second)) / math.sqrt(2)
    factor = 1 - 3 / (4 * (n - 1) - 1)
    return factor * float(np.mean(first) - np.mean(second)) / spread if spread else None


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; exactly 0 if only rounding sets its values apart."""
    return float(np.std(values, ddof=1)) if max(values) - min(values) > ROUNDING else 0.0
