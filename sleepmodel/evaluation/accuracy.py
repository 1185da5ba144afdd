"""Exact-match accuracy of a model, by row, by answer depth and by kind of problem, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from datagen.rows import Rows
from sleepmodel.config.training import Curriculum
from sleepmodel.evaluation.statistics import Int64, Share, bootstrap
from sleepmodel.model import SleepModel
from sleepmodel.training.curriculum import levels_of

NO_CURRICULUM = Curriculum()
BATCH_ROWS, BATCH_TOKENS = 512, 2**16


@dataclass(frozen=True)
class Accuracy:
    """Exact match: an answer is right if all its tokens are, a row if all its answers are (the paper's metric on Rule
    110).

    rows: the share of rows right; answers: of answers, by depth (Rule 110: steps of the automaton); kinds: of rows, by
    kind of problem, for tasks that have several (GSM: forward and reverse).
    """

    rows: Share
    answers: dict[int, Share]
    kinds: dict[str, Share] = field(default_factory=dict)


def batch_rows(rows: Rows) -> int:
    """The batch size of `predict`, in rows: as many as fit into BATCH_TOKENS when padded to the longest row, at most
    BATCH_ROWS."""
    return min(BATCH_ROWS, max(1, BATCH_TOKENS // int(rows.lengths.max())))


@torch.no_grad()
def predict(
    model: SleepModel,
    rows: Rows,
    sleep_passes: int | None = None,
    batch_size: int | None = None,
    curriculum: Curriculum = NO_CURRICULUM,
) -> Int64:
    """The most likely token at each answer position: int64 [n, T], with T the longest row's length; -1 elsewhere.

    sleep_passes: N; None is the model's. A `curriculum` with steps_per_pass sets N by level instead. batch_size: in
    rows; None is `batch_rows`.
    """
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
    """Which answers `predict` got right: bool [n, A]; True where a row has fewer than A answers."""
    tokens, _ = rows.batch()
    start, length, _ = rows.answers()
    wrong = np.zeros((len(rows), tokens.shape[1] + 1), np.int64)
    np.cumsum((predicted >= 0) & (predicted != tokens), axis=1, out=wrong[:, 1:])
    right: npt.NDArray[np.bool_] = np.take_along_axis(wrong, start, 1) == np.take_along_axis(wrong, start + length, 1)
    return right


def score(predicted: Int64, rows: Rows, resamples: int = 0, kinds: Sequence[str] = ()) -> Accuracy:
    """Exact match of `predict`'s tokens with those of the rows.

    resamples: of the bootstrap for the intervals; 0: no intervals. kinds: the kind of each row; (): no kinds.
    """
    right = right_answers(predicted, rows)
    _, length, depth = rows.answers()
    asked = length > 0
    depths = np.unique(depth[asked])
    of_depth = [asked & (depth == d) for d in depths]
    names, whole = sorted(set(kinds)), right.all(1)
    of_kind = [np.array([kind == name for kind in kinds]) for name in names]
    # columns: all rows, the rows of each kind, then the answers of each depth
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
    """The exact-match accuracy of a model on rows. Arguments as in `predict`."""
    return score(predict(model, rows, sleep_passes, curriculum=curriculum), rows)
