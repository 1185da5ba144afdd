"""How likely a model finds the right answers, token by token, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from sleepmodel.evaluation.accuracy import Predictions, sums_of_answers
from sleepmodel.evaluation.statistics import (
    RESAMPLES,
    Estimate,
    Float64,
    Int64,
    Share,
    bootstrap,
    intervals_of,
    resampled_ratios,
)


@dataclass(frozen=True)
class TokenScores:
    """Of some answer tokens. nats: the mean cross-entropy of the right token, given all right tokens before it; right:
    the share of tokens where the model finds the right one most likely."""

    nats: Estimate
    right: Share


@dataclass(frozen=True)
class Gap:
    """The nats of the rows of kind `more` less those of kind `less`."""

    more: str
    less: str
    nats: Estimate

    @property
    def name(self) -> str:
        return f"{self.more} - {self.less}"


@dataclass(frozen=True)
class Likelihood:
    """The scores of all answer tokens, of those of each depth, and of those in rows of each kind, where a task has
    several.

    gap: for tasks with two kinds, the first by name less the second. Where "own" rows ask for what the model has read,
    and "other" ones for what it has not, it is what the model remembers.
    """

    tokens: TokenScores
    depths: dict[int, TokenScores]
    kinds: dict[str, TokenScores] = field(default_factory=dict)
    gap: Gap | None = None


def measure_likelihood(
    predicted: Predictions, rows: Rows, kinds: Sequence[str] = (), resamples: int = RESAMPLES
) -> Likelihood:
    """The likelihood of the right answers. kinds: the kind of each row; (): no kinds.

    Intervals are bootstrapped over rows; a mean over tokens is a ratio of two sums over rows.
    """
    names, (_, length, depth) = sorted(set(kinds)), rows.answers()
    depths = np.unique(depth[length > 0])
    tokens, mask = rows.batch()
    # of each row, in columns: of all its tokens, of all if it is of this kind, and of the answers of each depth
    of_kind = np.array([[True, *(kind == name for name in names)] for kind in kinds or [""] * len(rows)])

    def columns(values: npt.NDArray[np.number] | npt.NDArray[np.bool_]) -> Float64:
        of_answers = sums_of_answers(values, rows)
        of_depth = [(of_answers * (depth == d)).sum(1) for d in depths]
        found: Float64 = np.concatenate([of_kind * values.sum(1, dtype=np.float64)[:, None], np.stack(of_depth, 1)], 1)
        return found

    def counted(values: npt.NDArray[np.bool_]) -> Int64:
        return columns(values).astype(np.int64)

    nats, count, right = columns(predicted.nats), counted(mask), counted(mask & (predicted.tokens == tokens))
    drawn = resampled_ratios(nats, count, resamples)
    scores = [
        TokenScores(Estimate(mean, interval), Share(hits, total, share))
        for mean, interval, hits, total, share in zip(
            (nats.sum(0) / count.sum(0)).tolist(),
            intervals_of(drawn),
            right.sum(0).tolist(),
            count.sum(0).tolist(),
            bootstrap(right, count, resamples),
            strict=True,
        )
    ]
    everything, by_kind, by_depth = scores[0], scores[1 : 1 + len(names)], scores[1 + len(names) :]
    gap = None
    if len(names) == 2:
        more, less = names
        (interval,) = intervals_of(drawn[:, 1:2] - drawn[:, 2:3])
        gap = Gap(more, less, Estimate(by_kind[0].nats.value - by_kind[1].nats.value, interval))
    return Likelihood(
        everything, dict(zip(depths.tolist(), by_depth, strict=True)), dict(zip(names, by_kind, strict=True)), gap
    )
