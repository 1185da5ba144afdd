"""Nats by position in the window and by windows read: against a loop over tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from datagen import Depo, Rows
from sleepmodel.evaluation.accuracy import Predictions
from sleepmodel.evaluation.positions import (
    PositionBin,
    are_documents,
    differences_by_position,
    measure_by_position,
)

MakeRows = Callable[[np.random.Generator, int], Rows]


def documents(rng: np.random.Generator, count: int) -> Rows:
    """Rows of unequal length in which any tokens but the first may be answers, some in a row of several."""
    tokens, start, length = [], [], []
    for _ in range(count):
        size = int(rng.integers(2, 60))
        starts = np.unique(rng.integers(1, size, int(rng.integers(1, size))))
        tokens.append(rng.integers(0, 9, size).tolist())
        start.append(starts.tolist())
        length.append(np.diff([*starts, size]).clip(max=int(rng.integers(1, 5))).tolist())
    return Rows.of(tokens, start, length, [[1] * len(each) for each in start])


def padded(rng: np.random.Generator, count: int) -> Rows:
    """Depo's rows are padded on the left to whole windows."""
    return Depo(nodes=6, hops=4, queries=3).sample("train", int(rng.integers(2**31)), 0, count)


def looped(rows: Rows, nats: np.ndarray, window: int) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """The nats of each answer token by the tokens of its window, then by the windows, that were read when it was
    predicted, found by reading each row token by token. The first count is of later windows alone."""
    within: dict[int, list[float]] = {}
    windows: dict[int, list[float]] = {}
    tokens, mask = rows.batch()
    for i in range(len(rows)):
        in_window, full = 0, 0
        for place in range(tokens.shape[1]):
            if mask[i, place]:
                windows.setdefault(full, []).append(float(nats[i, place]))
                if full:
                    within.setdefault(in_window, []).append(float(nats[i, place]))
            # the token is read after it was predicted; where it begins a window, the one before is left
            if place % window == 0 and in_window:
                in_window, full = 0, full + 1
            in_window += int(tokens[i, place] >= 0)
    return within, windows


def gathered(found: dict[int, list[float]], bins: list[PositionBin]) -> list[tuple[int, float]]:
    values = [[nats for n, part in found.items() if each.first <= n <= each.last for nats in part] for each in bins]
    return [(len(part), math.fsum(part) / len(part)) for part in values]


@pytest.mark.parametrize("make", [documents, padded], ids=["documents", "left padding"])
@pytest.mark.parametrize("window", [2, 7, 8, 20])
def test_nats_by_position_are_those_of_reading_token_by_token(make: MakeRows, window: int) -> None:
    rng = np.random.default_rng()
    rows = make(rng, 60)
    mask = rows.loss_mask()
    nats = np.where(mask, rng.exponential(2.0, mask.shape), 0).astype(np.float32)
    measured = measure_by_position(Predictions(np.where(mask, 0, -1), nats), rows, window, 10)
    assert measured is not None and measured.window == window
    for found, bins in zip(looped(rows, nats, window), (measured.within, measured.windows), strict=True):
        assert [(each.tokens, pytest.approx(each.nats.value)) for each in bins] == gathered(found, bins)
        assert sum(each.tokens for each in bins) == sum(map(len, found.values()))
        assert all(one.last < two.first for one, two in itertools.pairwise(bins))
    assert {each.name for each in measured.within} <= {"1", "2", "3-4", "3", "5-7", "5-8", "9-16", "17-20"}
    assert measured.within[-1].last <= window


def test_a_token_after_the_border_is_predicted_from_the_whole_window() -> None:
    """Windows of 4, every token but the first an answer: token 4 is predicted while the first window is still awake."""
    rows = Rows.of([[0] * 10], [[1]], [[9]], [[1]])
    nats = np.arange(10, dtype=np.float32)[None]
    measured = measure_by_position(Predictions(np.zeros((1, 10), np.int64), nats), rows, 4)
    assert measured is not None
    assert [(each.name, each.tokens, each.nats.value) for each in measured.windows] == [
        ("0", 4, 2.5),  # tokens 1 to 4
        ("1", 4, 6.5),
        ("2-3", 1, 9.0),
    ]
    assert [(each.name, each.tokens, each.nats.value) for each in measured.within] == [
        ("1", 2, 7.0),  # tokens 5 and 9
        ("2", 1, 6.0),
        ("3-4", 2, 7.5),
    ]


def test_intervals_by_position_are_those_of_drawing_documents() -> None:
    rng = np.random.default_rng()
    rows = Rows.of(rng.integers(0, 9, (150, 17)).tolist(), [[1]] * 150, [[16]] * 150, [[1]] * 150)
    nats = (rng.exponential(1.0, (150, 17)) * rng.exponential(1.0, (150, 1))).astype(np.float32)
    nats[:, 0] = 0
    predicted = Predictions(np.zeros((150, 17), np.int64), nats)
    measured = measure_by_position(predicted, rows, 8)
    assert measured is not None and measured == measure_by_position(predicted, rows, 8)
    of_row = nats[:, 13:17].mean(1)  # 5 to 8 tokens of the second window are read
    drawn = [of_row[rng.integers(0, 150, 150)].mean() for _ in range(3000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert measured.within[-1].name == "5-8"
    assert measured.within[-1].nats.interval == pytest.approx((low, high), abs=0.15 * (high - low))


def test_differences_are_paired_by_document() -> None:
    """Documents differ by far more than the models do on each of them."""
    rng = np.random.default_rng()
    rows = Rows.of(rng.integers(0, 9, (80, 17)).tolist(), [[1]] * 80, [[16]] * 80, [[1]] * 80)
    nats = (rng.exponential(1.0, (80, 17)) * rng.exponential(1.0, (80, 1))).astype(np.float32)
    gain = rng.normal(0.1, 0.02, nats.shape).astype(np.float32)
    models = [Predictions(np.zeros((80, 17), np.int64), each) for each in (nats, nats - gain, nats + 1)]
    none, (second,), (third, third_less_second) = differences_by_position(models, rows, 8)
    assert none == []
    measured = [measure_by_position(each, rows, 8) for each in models]
    alone = [found.within for found in measured if found]
    for bins, one, other in ((second, 1, 0), (third, 2, 0), (third_less_second, 2, 1)):
        for difference, better, worse in zip(bins[:-1], alone[one], alone[other], strict=True):
            assert (difference.name, difference.tokens) == (better.name, better.tokens)
            assert difference.nats.value == pytest.approx(better.nats.value - worse.nats.value)
        assert bins[-1].name == "1-8" and bins[-1].tokens == sum(each.tokens for each in bins[:-1])
    low, high = second[-1].nats.interval
    assert -0.11 < low < high < -0.09
    assert high - low < 0.1 * (alone[0][-1].nats.interval[1] - alone[0][-1].nats.interval[0])
    assert third[-1].nats.interval == pytest.approx((1, 1), abs=1e-5)
    assert differences_by_position(models, rows, 17) == []


def test_only_documents_behind_the_first_window_have_positions() -> None:
    rng = np.random.default_rng()
    assert are_documents(Rows.of([[0] * 8], [[4]], [[4]], [[1]]))
    assert not are_documents(Rows.of([[0] * 8], [[5]], [[3]], [[1]]))
    rows = documents(rng, 5)
    none = Predictions(np.full((5, 60), -1), np.zeros((5, 60), np.float32))
    assert measure_by_position(Predictions(*(x[:, : rows.lengths.max()] for x in none)), rows, 64) is None
