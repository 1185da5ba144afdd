"""What a model gets right: exact match by answer, by row and by depth, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from datagen.reader import read_rows
from datagen.rows import Rows
from sleepmodel.config import Curriculum
from sleepmodel.curriculum import levels_of
from sleepmodel.model import SleepModel
from sleepmodel.saving import load

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
RESAMPLES = 2000
NO_CURRICULUM = Curriculum()
BATCH_ROWS, BATCH_TOKENS = 512, 2**16

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


@dataclass(frozen=True)
class Accuracy:
    """Exact match: a row is right when all its answers are (the paper's metric on Rule 110); an answer when all its
    tokens are. `answers` is keyed by depth (Rule 110: automaton steps), `kinds`, rows again, by kind of problem where a
    task has several (GSM: forward, reverse)."""

    rows: Share
    answers: dict[int, Share]
    kinds: dict[str, Share] = field(default_factory=dict)


def batch_rows(rows: Rows) -> int:
    """Rows of a batch of `predict`: as many as fit into BATCH_TOKENS, were they all as long as the longest."""
    return min(BATCH_ROWS, max(1, BATCH_TOKENS // int(rows.lengths.max())))


@torch.no_grad()
def predict(
    model: SleepModel,
    rows: Rows,
    sleep_passes: int | None = None,
    batch_size: int | None = None,
    curriculum: Curriculum = NO_CURRICULUM,
) -> Int64:
    """The most likely token at each answer token: int64 [n, T], T the longest row's; -1 where there is no answer.
    sleep_passes: N, None is the model's, but for a `curriculum` that sets it by level; batch_size: rows, None is
    `batch_rows`."""
    device = next(model.parameters()).device
    predicted = np.full((len(rows), rows.lengths.max()), -1, np.int64)
    if curriculum.steps_per_pass is not None:
        levels = levels_of(rows, curriculum)
        for level in np.unique(levels):
            which = np.flatnonzero(levels == level)
            part = predict(model, rows[which], curriculum.passes(int(level)), batch_size)
            predicted[which, : part.shape[1]] = part
        return predicted
    size = batch_size or batch_rows(rows)
    for start in range(0, len(rows), size):
        part = np.arange(start, min(start + size, len(rows)))
        tokens, mask = rows.batch(part)
        logits = model(torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device), sleep_passes).logits
        predicted[start : start + len(part), : mask.shape[1]][mask] = logits.argmax(-1).cpu().numpy()
    return predicted


def predict_range(
    model: Path,
    dataset: Path,
    start: int,
    end: int,
    sleep_passes: int,
    batch_size: int,
    gpu: bool,
    curriculum: Curriculum,
) -> Int64:
    """`predict` for a saved model on test rows start..end - 1, on one core or a GPU; a task of its own for a worker.

    Returns the tokens predicted, row by row: int64 [answer tokens].
    """
    torch.set_num_threads(1)
    rows = read_rows(dataset, "test", end)[start:]
    predicted = predict(load(model).to("cuda" if gpu else "cpu"), rows, sleep_passes, batch_size, curriculum)
    tokens: Int64 = predicted[rows.loss_mask()]
    return tokens


def right_answers(predicted: Int64, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which answers have `predict`'s tokens right, bool [n, A]; True where a row has fewer than A answers."""
    tokens, _ = rows.batch()
    start, length, _ = rows.answers()
    wrong = np.zeros((len(rows), tokens.shape[1] + 1), np.int64)
    np.cumsum((predicted >= 0) & (predicted != tokens), axis=1, out=wrong[:, 1:])
    right: npt.NDArray[np.bool_] = np.take_along_axis(wrong, start, 1) == np.take_along_axis(wrong, start + length, 1)
    return right


def score(predicted: Int64, rows: Rows, resamples: int = 0, kinds: Sequence[str] = ()) -> Accuracy:
    """Exact match of `predict`'s tokens with the rows' own; intervals of so many `resamples`, 0: none; kinds: of each
    row, or of none."""
    right = right_answers(predicted, rows)
    _, length, depth = rows.answers()
    asked = length > 0
    depths = np.unique(depth[asked])
    of_depth = [asked & (depth == d) for d in depths]
    names, whole = sorted(set(kinds)), right.all(1)
    of_kind = [np.array([kind == name for kind in kinds]) for name in names]
    # a column each: whole rows, those of each kind, then the answers of each depth
    groups = [np.ones(len(rows), np.bool_), *of_kind]
    total = np.stack([*groups, *(which.sum(1) for which in of_depth)], axis=1, dtype=np.int64)
    parts = [*(whole & group for group in groups), *((right & which).sum(1) for which in of_depth)]
    hits = np.stack(parts, axis=1, dtype=np.int64)
    intervals = bootstrap(hits, total, resamples) if resamples else [None] * total.shape[1]
    counts = zip(hits.sum(0).tolist(), total.sum(0).tolist(), intervals, strict=True)
    everything, *shares = (Share(*count) for count in counts)
    by_kind, by_depth = shares[: len(names)], shares[len(names) :]
    answers = dict(zip(depths.tolist(), by_depth, strict=True))
    return Accuracy(everything, answers, dict(zip(names, by_kind, strict=True)))


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


def accuracy(
    model: SleepModel, rows: Rows, sleep_passes: int | None = None, curriculum: Curriculum = NO_CURRICULUM
) -> Accuracy:
    """Exact match of a model on rows; N as in `predict`."""
    return score(predict(model, rows, sleep_passes, curriculum=curriculum), rows)


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
