"""How likely a model finds the right answers, token by token, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from datagen.wording import Control
from sleepmodel.evaluation.accuracy import Predictions, asked_kinds, resampling_units, sums_of_answers
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
    """The nats of the rows of kind `more` less those of kind `less`: of all answer tokens, and by depth."""

    more: str
    less: str
    nats: Estimate
    depths: dict[int, Estimate]

    @property
    def name(self) -> str:
        return f"{self.more} - {self.less}"


@dataclass(frozen=True)
class Likelihood:
    """The scores of all answer tokens, of those of each depth, and of those in rows of each kind, where a task has
    several.

    gap: for tasks with a control, the nats of its rows less those of the rows that they are the control of: what the
    model remembers.
    """

    tokens: TokenScores
    depths: dict[int, TokenScores]
    kinds: dict[str, TokenScores] = field(default_factory=dict)
    gap: Gap | None = None


def measure_likelihood(
    predicted: Predictions,
    rows: Rows,
    kinds: Sequence[str] = (),
    control: Control | None = None,
    resamples: int = RESAMPLES,
) -> Likelihood:
    """The likelihood of the right answers. kinds: the kind of each row; (): no kinds; control: the task's, which has
    kinds.

    A mean over tokens is a ratio of two sums over rows. Its interval is bootstrapped over rows, a row together with its
    control (`resampling_units`).
    """
    names, (_, length, depth) = asked_kinds(rows, kinds), rows.answers()
    depths, (tokens, mask) = np.unique(depth[length > 0]), rows.batch()
    of_kind = np.array([[kind == name for name in names] for kind in kinds], np.bool_).reshape(len(rows), len(names))

    def columns(values: npt.NDArray[np.number] | npt.NDArray[np.bool_]) -> Float64:
        """Sums over the tokens of each row: all of them, those of each depth, and all if the row is of this kind."""
        whole, of_answers = values.sum(1, dtype=np.float64), sums_of_answers(values, rows)
        of_depth = [(of_answers * (depth == d)).sum(1) for d in depths]
        return np.stack([whole, *of_depth, *(whole * of_kind.T)], axis=1)

    nats, count, right = columns(predicted.nats), columns(mask), columns(mask & (predicted.tokens == tokens))
    nats_units, count_units, right_units = (resampling_units(each, kinds, control) for each in (nats, count, right))
    scores = [
        TokenScores(Estimate(mean, interval), Share(int(hits), int(total), share))
        for mean, interval, hits, total, share in zip(
            (nats.sum(0) / count.sum(0)).tolist(),
            intervals_of(resampled_ratios(nats_units, count_units, resamples)),
            right.sum(0),
            count.sum(0),
            bootstrap(right_units, count_units, resamples),
            strict=True,
        )
    ]
    end = 1 + len(depths)
    compared = control if control is not None and {*control} <= {*names} else None
    return Likelihood(
        scores[0],
        dict(zip(depths.tolist(), scores[1:end], strict=True)),
        dict(zip(names, scores[end:], strict=True)),
        _gap(kinds, compared, nats[:, :end], count[:, :end], depths, resamples) if compared else None,
    )


def _gap(kinds: Sequence[str], control: Control, nats: Float64, count: Float64, depths: Int64, resamples: int) -> Gap:
    """nats, count: sums over all answer tokens of each row, then over those of each depth, [n, 1 + depths]."""
    of_kind = [np.array([[kind == name] for kind in kinds]) for name in control]
    asked = np.all([(count * rows).any(0) for rows in of_kind], axis=0)  # in rows of both kinds
    sums, counts = (
        resampling_units(np.concatenate([each[:, asked] * rows for rows in of_kind], axis=1), kinds, control)
        for each in (nats, count)
    )
    more, less = np.split(resampled_ratios(sums, counts, resamples), 2, axis=1)
    value_more, value_less = np.split(sums.sum(0) / counts.sum(0), 2)
    whole, *by_depth = map(Estimate, (value_more - value_less).tolist(), intervals_of(more - less))
    return Gap(*control, whole, dict(zip(depths[asked[1:]].tolist(), by_depth, strict=True)))
