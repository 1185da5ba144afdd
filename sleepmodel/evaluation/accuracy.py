"""Predictions of a model, and their exact match by row, by answer depth and by kind, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from datagen.checks import require, require_whole
from datagen.rows import Rows
from datagen.wording import Control
from sleepmodel.config.training import Curriculum
from sleepmodel.evaluation.statistics import Int64, Share, bootstrap
from sleepmodel.model import CHUNK_LOGITS, SleepModel
from sleepmodel.modes import in_mode
from sleepmodel.training.curriculum import levels_of

NO_CURRICULUM = Curriculum()
BATCH_ROWS, BATCH_TOKENS = 512, 2**16
BATCH_LOGITS = 2**25  # 128 MiB in float32


class Predictions(NamedTuple):
    """A model's predictions at the answer positions of n rows; T is the length of the longest row.

    tokens: int64 [n, T], the most likely token; -1 elsewhere. nats: float32 [n, T], the cross-entropy of the right
    token, given all right tokens before it; 0 elsewhere.
    """

    tokens: Int64
    nats: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Accuracy:
    """Exact match: an answer is right if all its tokens are, a row if all its answers are (the paper's metric on Rule
    110). A row without answers counts nowhere.

    rows: the share of rows right; answers: of answers, by depth (Rule 110: steps of the automaton); kinds: of rows, by
    kind of problem, for tasks that have several (GSM: forward and reverse).
    """

    rows: Share
    answers: dict[int, Share]
    kinds: dict[str, Share] = field(default_factory=dict)


def check_rows(rows: Rows) -> None:
    """Raise ValueError if there are no rows, or if none has an answer."""
    require(len(rows) > 0, "rows", len(rows), "at least 1: without rows there is nothing to predict")
    asked = int(rows.asked.sum())
    require(asked > 0, "rows with answers", asked, f"at least 1 of {len(rows)}: there is nothing to predict")


def asked_kinds(rows: Rows, kinds: Sequence[str]) -> list[str]:
    """The kinds of rows with answers, in alphabetical order. kinds: of each row; (): no kinds."""
    return sorted({kind for kind, asked in zip(kinds, rows.asked, strict=True) if asked}) if kinds else []


def batch_rows(rows: Rows, vocab_size: int) -> int:
    """The batch size of `predict`, in rows: at most BATCH_ROWS, BATCH_TOKENS tokens when padded to the longest row, and
    BATCH_LOGITS logits if every row had as many answer tokens as any. A row beyond these limits is a batch of its own.
    Raises ValueError as `check_rows`.
    """
    check_rows(rows)
    answers = int(rows.answers()[1].sum(1).max())
    fitting = min(BATCH_TOKENS // int(rows.lengths.max()), BATCH_LOGITS // (answers * vocab_size))
    return min(BATCH_ROWS, max(1, fitting))


@torch.no_grad()
def predict(
    model: SleepModel,
    rows: Rows,
    sleep_passes: int | None = None,
    batch_size: int | None = None,
    curriculum: Curriculum = NO_CURRICULUM,
) -> Predictions:
    """A model's predictions at each answer position.

    sleep_passes: N; None is the model's. A `curriculum` with steps_per_pass sets N by level instead. batch_size: in
    rows; None is `batch_rows`. Raises ValueError as `check_rows`, and if a number is out of range.
    """
    check_rows(rows)
    found = no_predictions((len(rows), int(rows.lengths.max())))
    size = batch_rows(rows, model.config.vocab_size) if batch_size is None else batch_size
    require_whole("batch_size", size, 1)
    for start in range(0, len(rows), size):
        part = np.arange(start, min(start + size, len(rows)))
        for passes, which in _by_passes(rows[part], sleep_passes, curriculum, model.config.reads_first):
            tokens, mask = rows.batch(part[which])
            row, column = mask.nonzero()
            at = part[which][row], column
            found.tokens[at], found.nats[at] = _predict_batch(model, tokens, mask, passes)
    return found


def no_predictions(shape: tuple[int, ...]) -> Predictions:
    """Predictions [n, T] without any answer."""
    return Predictions(np.full(shape, -1, np.int64), np.zeros(shape, np.float32))


def _by_passes(
    rows: Rows, sleep_passes: int | None, curriculum: Curriculum, reads_first: bool
) -> list[tuple[int | None, npt.NDArray[np.intp]]]:
    """The rows of a batch by their N."""
    if curriculum.steps_per_pass is None:
        return [(sleep_passes, np.arange(len(rows)))]
    levels = levels_of(rows, curriculum)
    found = np.unique(levels).tolist()
    return [(curriculum.passes(level, reads_first), np.flatnonzero(levels == level)) for level in found]


def _predict_batch(
    model: SleepModel, tokens: Int64, mask: npt.NDArray[np.bool_], passes: int | None
) -> tuple[Int64, npt.NDArray[np.float32]]:
    """The most likely token at each answer position and the nats of the right one, both [answer tokens]."""
    batch, answers = torch.from_numpy(tokens), torch.from_numpy(mask)
    with in_mode(model, training=False):
        logits = model(batch, answers, passes).logits
    return judged(logits, batch[answers].to(logits.device))


def judged(logits: Tensor, expected: Tensor) -> tuple[Int64, npt.NDArray[np.float32]]:
    """The most likely tokens, [n], and the nats of the expected ones. logits: [n, vocab]; expected: int64 [n]."""
    likely, nats = [], []
    # a float32 copy of all logits of a large vocabulary would double the memory
    rows = max(1, CHUNK_LOGITS // logits.shape[1])
    for part, right in zip(logits.split(rows), expected.split(rows), strict=True):
        wide = part.to(torch.promote_types(part.dtype, torch.float32))
        likely.append(wide.argmax(-1))
        nats.append(F.cross_entropy(wide, right, reduction="none"))
    return torch.cat(likely).cpu().numpy(), torch.cat(nats).to("cpu", torch.float32).numpy()


def sums_of_answers(values: npt.NDArray[Any], rows: Rows) -> npt.NDArray[np.float64]:
    """The sum of [n, T] values over the tokens of each answer: float64 [n, A]; 0 where a row has fewer than A."""
    start, length, _ = rows.answers()
    before = np.zeros((len(rows), values.shape[1] + 1))
    np.cumsum(values, axis=1, dtype=np.float64, out=before[:, 1:])
    sums: npt.NDArray[np.float64] = np.take_along_axis(before, start + length, 1) - np.take_along_axis(before, start, 1)
    return sums


def right_answers(predicted: Int64, rows: Rows) -> npt.NDArray[np.bool_]:
    """Which answers `predict` got right, from its tokens: bool [n, A]; True where a row has fewer than A answers."""
    right: npt.NDArray[np.bool_] = sums_of_answers(predicted != rows.batch()[0], rows) == 0
    return right


def resampling_units(sums: npt.NDArray[Any], kinds: Sequence[str], control: Control | None = None) -> npt.NDArray[Any]:
    """What the bootstrap resamples, from sums over rows [n, columns]: the sums over each row and its control, as their
    answers are correlated, and over each other row [units, columns]."""
    if control is None:
        return sums
    of_rows, first = np.array(kinds), np.ones(len(sums), np.bool_)
    first[1:] = (of_rows[:-1] != control.of) | (of_rows[1:] != control.kind)
    units: npt.NDArray[Any] = np.add.reduceat(sums, np.flatnonzero(first))
    return units


def score(
    predicted: Int64, rows: Rows, resamples: int = 0, kinds: Sequence[str] = (), control: Control | None = None
) -> Accuracy:
    """Exact match of `predict`'s tokens with those of the rows, of which at least one has an answer.

    resamples: of the bootstrap for the intervals; 0: no intervals. kinds: the kind of each row; (): no kinds; control:
    the task's, which has kinds.
    """
    right = right_answers(predicted, rows)
    _, length, depth = rows.answers()
    asked = length > 0
    depths = np.unique(depth[asked])
    of_depth = [asked & (depth == d) for d in depths]
    names, whole, counted = asked_kinds(rows, kinds), right.all(1), rows.asked
    of_kind = [counted & np.array([kind == name for kind in kinds]) for name in names]
    # columns: all rows, the rows of each kind, then the answers of each depth
    groups = [counted, *of_kind]
    total = np.stack([*groups, *(which.sum(1) for which in of_depth)], axis=1, dtype=np.int64)
    parts = [*(whole & group for group in groups), *((right & which).sum(1) for which in of_depth)]
    hits = np.stack(parts, axis=1, dtype=np.int64)
    units = [resampling_units(each, kinds, control) for each in (hits, total)]
    intervals = bootstrap(units[0], units[1], resamples) if resamples else [None] * total.shape[1]
    counts = zip(hits.sum(0).tolist(), total.sum(0).tolist(), intervals, strict=True)
    everything, *shares = (Share(*count) for count in counts)
    by_kind, by_depth = shares[: len(names)], shares[len(names) :]
    answers = dict(zip(depths.tolist(), by_depth, strict=True))
    return Accuracy(everything, answers, dict(zip(names, by_kind, strict=True)))


def accuracy(
    model: SleepModel, rows: Rows, sleep_passes: int | None = None, curriculum: Curriculum = NO_CURRICULUM
) -> Accuracy:
    """The exact-match accuracy of a model on rows. Arguments as in `predict`."""
    return score(predict(model, rows, sleep_passes, curriculum=curriculum).tokens, rows)
