"""What a model gets right: exact match by answer, by row and by depth, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from datagen.rows import Rows
from sleepmodel.config import Curriculum
from sleepmodel.evaluation.statistics import Int64, Share, bootstrap
from sleepmodel.model import SleepModel
from sleepmodel.training.curriculum import levels_of

NO_CURRICULUM = Curriculum()
BATCH_ROWS, BATCH_TOKENS = 512, 2**16


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


def accuracy(
    model: SleepModel, rows: Rows, sleep_passes: int | None = None, curriculum: Curriculum = NO_CURRICULUM
) -> Accuracy:
    """Exact match of a model on rows; N as in `predict`."""
    return score(predict(model, rows, sleep_passes, curriculum=curriculum), rows)
