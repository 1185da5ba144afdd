"""What a model gets right: exact match by answer, by row and by depth, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from datagen.rows import Rows
from sleepmodel.model import SleepModel

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Share:
    """How many of `total` are right, with Wilson's interval."""

    right: int
    total: int

    @property
    def value(self) -> float:
        return self.right / self.total

    @property
    def interval(self) -> tuple[float, float]:
        low, high = stats.binomtest(self.right, self.total).proportion_ci(CONFIDENCE, method="wilson")
        return float(low), float(high)


@dataclass(frozen=True)
class Accuracy:
    """Exact match: a row is right when all its answers are (the paper's metric on Rule 110); an answer when all its
    tokens are. `answers` is keyed by depth (Rule 110: automaton steps)."""

    rows: Share
    answers: dict[int, Share]


@torch.no_grad()
def predict(model: SleepModel, rows: Rows, sleep_passes: int | None = None, batch_size: int = 512) -> np.ndarray:
    """The most likely token at each answer token: int64 [n, T], T the longest row's; -1 where there is no answer.
    sleep_passes: N, None is the model's."""
    device = next(model.parameters()).device
    predicted = np.full((len(rows), rows.lengths.max()), -1, np.int64)
    for start in range(0, len(rows), batch_size):
        part = np.arange(start, min(start + batch_size, len(rows)))
        tokens, mask = rows.batch(part)
        logits = model(torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device), sleep_passes).logits
        predicted[start : start + len(part), : mask.shape[1]][mask] = logits.argmax(-1).cpu().numpy()
    return predicted


def score(predicted: np.ndarray, rows: Rows) -> Accuracy:
    """Exact match of `predict`'s tokens with the rows' own."""
    tokens, _ = rows.batch()
    start, length, depth = rows.answers()
    wrong = np.zeros((len(rows), tokens.shape[1] + 1), np.int64)
    np.cumsum((predicted >= 0) & (predicted != tokens), axis=1, out=wrong[:, 1:])
    right = np.take_along_axis(wrong, start, 1) == np.take_along_axis(wrong, start + length, 1)
    asked = length > 0
    by_depth = {}
    for d in np.unique(depth[asked]):
        of_depth = right[asked & (depth == d)]
        by_depth[int(d)] = Share(int(of_depth.sum()), len(of_depth))
    return Accuracy(Share(int(right.all(1).sum()), len(rows)), by_depth)


def accuracy(model: SleepModel, rows: Rows, sleep_passes: int | None = None) -> Accuracy:
    """Exact match of a model on rows, with N passes over each window; None is the model's N."""
    return score(predict(model, rows, sleep_passes), rows)


@dataclass(frozen=True)
class Mean:
    """Mean over seeds with Student's 95 % interval; infinitely wide for a single seed."""

    mean: float
    half_width: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half_width:.3f}" if self.seeds > 1 else f"{self.mean:.3f}"

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        n = len(values)
        if n < 2:
            return cls(float(np.mean(values)), math.inf, n)
        spread = float(np.std(values, ddof=1)) / math.sqrt(n)
        return cls(float(np.mean(values)), float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread, n)
