"""What the fast weights hold after each pass of a sleep: by the model's own readout, and by linear probes.

A readout that was trained for N passes may fail on what fewer of them leave, although it is there. A probe is fitted to
each number of passes anew, and sees only what the fast weights give to the token from which an answer is predicted.
With a single block of fast weights that is one look-up. With several, a later block may look up what an earlier one
gave, so that what a probe finds need not be held as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datagen.checks import require
from datagen.rows import Rows
from sleepmodel.evaluation.accuracy import batch_rows, check_rows
from sleepmodel.evaluation.statistics import RESAMPLES, Float64, Int64, Share, bootstrap
from sleepmodel.mixers.base import Mixer
from sleepmodel.model import SleepModel
from sleepmodel.modes import in_mode

RIDGE = 1e-3  # in units of the variance of a feature


class Reading(NamedTuple):
    """How n answers are predicted. likely: int64 [n], the likeliest token by the model's readout; given: float64
    [n, F], the outputs of all mixers with fast weights, first to last, at the token before the answer."""

    likely: Int64
    given: Float64


@dataclass(frozen=True)
class Held:
    """What a state holds of the answers to questions of one depth.

    passes: that made the state; asked: the depth. answered: the share that the model's readout has right; decoded: by
    depth, the share of the answers that the same questions have *at that depth* which a probe has right.
    """

    passes: int
    asked: int
    answered: Share
    decoded: dict[int, Share]


def measure_held(
    model: SleepModel,
    fitted: Mapping[int, Rows],
    tested: Mapping[int, Rows],
    passes: Iterable[int],
    together: int = 1,
    resamples: int = RESAMPLES,
) -> Iterator[Held]:
    """What the state holds after each number of passes, for questions of each depth, one after the other.

    fitted, tested: by depth, rows of one question each; at every depth the same questions in the same order. Probes are
    fitted to the first, and everything is scored on the second. together: consecutive rows of `tested` that share a
    context, which the bootstrap draws together. Raises the errors of `check_probed`.
    """
    depths = sorted(tested)
    known, right = (np.stack([_answers(rows[depth]) for depth in depths], axis=1) for rows in (fitted, tested))
    for n in passes:
        for column, asked in enumerate(depths):
            reading = read_after(model, tested[asked], n)
            decoded = decode(read_after(model, fitted[asked], n).given, known, reading.given)
            hits = np.concatenate((reading.likely[:, None] == right[:, [column]], decoded == right), axis=1)
            answered, *shares = _shares(hits, together, resamples)
            yield Held(n, asked, answered, dict(zip(depths, shares, strict=True)))


def check_probed(model: SleepModel, rows: Rows) -> None:
    """Raise ValueError if there are no rows, and unless each asks for one token, in the same window and behind one to
    sleep on, and unless fast weights are all that it can be answered from."""
    check_rows(rows)
    config, (start, length, _) = model.config, rows.answers()
    require(config.eviction == "hard", "eviction", config.eviction, "hard: else the cache answers too")
    require(bool(_fast_weights(model)), "mixers", config.mixers, "such that a block has fast weights, to be probed")
    asked = length.sum(1)
    row = int((asked != 1).argmax())
    require(bool(asked[row] == 1), "answer tokens", int(asked[row]), f"1 in each row, for a probe; this is row {row}")
    windows = np.unique((start - 1) // config.window).tolist()
    allowed = f"such that all rows are asked in one window behind others, not in the windows {windows}"
    require(len(windows) == 1 and windows[0] > 0, "window", config.window, allowed)


@torch.no_grad()
def read_after(model: SleepModel, rows: Rows, passes: int, batch_size: int | None = None) -> Reading:
    """Ask rows of the state that N = `passes` leaves; with 0, of fast weights that have read nothing.

    After pass n of a sleep of more passes, the state of the blocks of the loop is the same. batch_size: in rows; None
    is `batch_rows`. Raises the errors of `check_probed`.
    """
    check_probed(model, rows)
    size = batch_size or batch_rows(rows, model.config.vocab_size)
    likely, given = list[Tensor](), list[Tensor]()
    for start in range(0, len(rows), size):
        tokens, mask = map(torch.from_numpy, rows.batch(slice(start, start + size)))
        plan = model.plan(tokens, mask, max(1, passes)).to(model.embed.weight.device)
        asking = plan.windows[-1]
        if passes == 0:
            plan = plan._replace(windows=(asking,))
        with _latest_outputs(model) as outputs, in_mode(model, training=False):
            likely.append(model(tokens, mask, plan=plan).logits.argmax(-1))
        at = asking.groups[0].at
        given.append(torch.cat([outputs[mixer].flatten(0, 1)[at] for mixer in _fast_weights(model)], 1))
    return Reading(torch.cat(likely).cpu().numpy(), torch.cat(given).to("cpu", torch.float64).numpy())


def decode(given: Float64, answers: Int64, asked: Float64) -> Int64:
    """Fit linear probes to `given` [m, F] and `answers` [m, J], and decode `asked` [n, F]: int64 [n, J].

    A probe is the ridge regression of which token the answer is, with an intercept and standardised features.
    """
    mean, deviation = given.mean(0), given.std(0)
    known, told = ((x - mean) / np.where(deviation > 0, deviation, 1) for x in (given, asked))
    tokens, which = np.unique(answers, return_inverse=True)
    wanted = np.eye(len(tokens))[which.reshape(len(answers), -1)]  # [m, J, tokens]
    share = wanted.mean(0)
    penalty = RIDGE * len(known) * np.eye(known.shape[1])
    weights = np.linalg.solve(known.T @ known + penalty, known.T @ (wanted - share).reshape(len(known), -1))
    scores = (told @ weights).reshape(len(told), *share.shape) + share
    found: Int64 = tokens[scores.argmax(-1)]
    return found


@contextmanager
def _latest_outputs(model: SleepModel) -> Iterator[dict[Mixer, Tensor]]:
    """The output [B, T, d] of the latest call of each mixer with fast weights."""
    outputs: dict[Mixer, Tensor] = {}

    def keep(mixer: Any, given: Any, found: Any) -> None:
        outputs[mixer] = found[0]

    hooks = [mixer.register_forward_hook(keep) for mixer in _fast_weights(model)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _fast_weights(model: SleepModel) -> list[Mixer]:
    return [block.mixer for block in model.stack if block.mixer.has_fast_weights]


def _answers(rows: Rows) -> Int64:
    """The tokens of the answers of rows with one each, int64 [n]."""
    tokens, mask = rows.batch()
    return tokens[mask]


def _shares(hits: npt.NDArray[np.bool_], together: int, resamples: int) -> list[Share]:
    """The share of each column. together: consecutive rows that are drawn together."""
    units = hits.reshape(-1, together, hits.shape[1]).sum(1, dtype=np.int64)
    total = np.full_like(units, together)
    intervals = bootstrap(units, total, resamples) if resamples else [None] * hits.shape[1]
    return [Share(right, len(hits), interval) for right, interval in zip(units.sum(0).tolist(), intervals, strict=True)]
