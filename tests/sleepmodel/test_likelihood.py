"""Nats and right tokens of the answers: against float64, slow loops and the bootstrap as it is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datagen import Recall, Rows
from sleepmodel.evaluation import accuracy
from sleepmodel.evaluation.accuracy import BATCH_LOGITS, BATCH_ROWS, BATCH_TOKENS, Predictions, batch_rows, predict
from sleepmodel.evaluation.likelihood import TokenScores, measure_likelihood
from sleepmodel.evaluation.statistics import Estimate, Mean
from tests.sleepmodel.conftest import MakeModel
from tests.sleepmodel.test_evaluation import random_rows

KINDS, CONTROL = ("other", "own"), Recall.control


def slept_rows(rng: np.random.Generator, count: int) -> Rows:
    """Random rows behind a window of 16 tokens."""
    rows = random_rows(rng, count)
    tokens = [rng.integers(0, 3, 16).tolist() + each for each in rows.tokens.tolist()]
    starts = [[16 + start for start in each] for each in rows.answer_start.tolist()]
    return Rows.of(tokens, starts, rows.answer_length.tolist(), rows.answer_depth.tolist())


def drawn_predictions(rng: np.random.Generator, rows: Rows) -> Predictions:
    """Predictions of no model: any tokens and nats."""
    mask = rows.loss_mask()
    nats = np.where(mask, rng.exponential(2.0, mask.shape), 0).astype(np.float32)
    return Predictions(np.where(mask, rng.integers(0, 3, mask.shape), -1), nats)


def drawn_kinds(rng: np.random.Generator, count: int) -> list[str]:
    return [KINDS[i] for i in rng.permutation(np.arange(count) % 2)]


def looped(rows: Rows, predicted: Predictions, chosen: list[tuple[int, int]]) -> tuple[float, int, int]:
    """The sum of nats, the tokens right and the tokens asked of the chosen (row, answer), one by one."""
    nats, right, asked = 0.0, 0, 0
    for row, answer in chosen:
        start, length = (column.tolist()[row][answer] for column in (rows.answer_start, rows.answer_length))
        for place in range(start, start + length):
            nats += float(predicted.nats[row, place])
            right += int(predicted.tokens[row, place] == rows.tokens.tolist()[row][place])
            asked += 1
    return nats, right, asked


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_nats_are_the_cross_entropy_of_each_answer_token(dtype: torch.dtype, make_model: MakeModel) -> None:
    """Against -log softmax, written out in float64 from the logits of each row alone. Predictions keep float32, so that
    1e-6 of the value is the most that float64 logits leave; logits of another dtype differ with the batch."""
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]
    rng = np.random.default_rng()
    model, rows = make_model(dtype=dtype, window=16, seed=int(rng.integers(2**31))), slept_rows(rng, 20)
    predicted = predict(model, rows, batch_size=7)
    for i in range(len(rows)):
        tokens, mask = rows.batch(slice(i, i + 1))
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens), torch.from_numpy(mask)).logits.double().numpy()
        right = tokens[mask]
        nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(right)), right]
        places = np.flatnonzero(mask[0])
        assert predicted.nats[i, places] == pytest.approx(nats, rel=tolerance, abs=tolerance)
        assert not np.delete(predicted.nats[i], places).any()


def test_logits_are_reduced_in_chunks_without_a_trace(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng()
    model, rows = make_model(dtype=torch.float32, window=16), slept_rows(rng, 30)
    whole = predict(model, rows)
    for limit in (1, 12, 100):
        monkeypatch.setattr(accuracy, "CHUNK_LOGITS", limit)
        for found, expected in zip(predict(model, rows), whole, strict=True):
            assert np.array_equal(found, expected)


def test_a_large_vocabulary_makes_small_batches() -> None:
    """SmolLM2 has 49,152 tokens, Qwen 151,936; a row of 97 tokens ends with an answer of 48."""
    rows = Rows.of([[1] * 97] * 3, [[49]] * 3, [[48]] * 3, [[1]] * 3)
    for vocabulary in (3, 300, 49_152, 151_936):
        size = batch_rows(rows, vocabulary)
        assert 1 <= size <= BATCH_ROWS and size * 97 <= BATCH_TOKENS and size * 48 * vocabulary <= BATCH_LOGITS
        larger = size + 1
        assert larger > BATCH_ROWS or larger * 97 > BATCH_TOKENS or larger * 48 * vocabulary > BATCH_LOGITS
    document = Rows.of([[1] * 2049], [[1]], [[2048]], [[1]])
    assert batch_rows(document, 151_936) == 1


def test_likelihood_by_kind_and_depth_is_that_of_a_slow_loop() -> None:
    rng = np.random.default_rng()
    rows = random_rows(rng, 80)
    predicted, kinds = drawn_predictions(rng, rows), drawn_kinds(rng, 80)
    measured = measure_likelihood(predicted, rows, kinds, CONTROL, 10)
    answers = [(row, i, depth) for row, each in enumerate(rows.answer_depth.tolist()) for i, depth in enumerate(each)]

    def check(scores: TokenScores, chosen: list[tuple[int, int]]) -> float:
        nats, right, asked = looped(rows, predicted, chosen)
        assert scores.nats.value == pytest.approx(nats / asked, rel=1e-9)
        assert (scores.right.right, scores.right.total) == (right, asked)
        return nats / asked

    check(measured.tokens, [(row, i) for row, i, _ in answers])
    assert measured.depths.keys() == {1, 2, 3} and tuple(measured.kinds) == KINDS
    for depth, scores in measured.depths.items():
        check(scores, [(row, i) for row, i, d in answers if d == depth])
    other, own = (
        check(measured.kinds[kind], [(row, i) for row, i, _ in answers if kinds[row] == kind]) for kind in KINDS
    )
    assert measured.gap is not None and measured.gap.name == "other - own"
    assert measured.gap.nats.value == pytest.approx(other - own, rel=1e-9)
    for depth, gap in measured.gap.depths.items():
        nats = []
        for kind in KINDS:
            found, _, asked = looped(
                rows, predicted, [(row, i) for row, i, d in answers if (kinds[row], d) == (kind, depth)]
            )
            nats.append(found / asked)
        assert gap.value == pytest.approx(nats[0] - nats[1], rel=1e-9)
    assert measured.gap.depths.keys() == {1, 2, 3}


@pytest.mark.parametrize(
    ("shards", "passages"),
    [((600,), 300), ((599,), 300), ((201, 201, 198), 301), ((199, 201, 199), 301)],
    ids=["all have a control", "all but the last", "odd shards", "odd shards and an odd end"],
)
def test_a_row_and_its_control_are_drawn_together(shards: tuple[int, ...], passages: int) -> None:
    """Recall asks for a passage in a row of either kind. Passages differ by far more than the kinds do. A shard begins
    with a new passage, so the last one of an odd shard has no control."""
    rng = np.random.default_rng()
    passage, gaps = rng.exponential(3.0, passages), rng.normal(0.5, 0.05, passages)
    number, kinds, units = 0, list[str](), list[list[int]]()
    for size in shards:
        kinds += [KINDS[1 - i % 2] for i in range(size)]
        units += [list(range(number + i, number + min(i + 2, size))) for i in range(0, size, 2)]
        number += size
    per_row = np.concatenate([passage[i] + [0, gaps[i]][: len(unit)] for i, unit in enumerate(units)])
    rows = Rows.of([[0, 1, 2]] * number, [[1]] * number, [[2]] * number, [[1]] * number)
    mask = rows.loss_mask()
    predicted = Predictions(np.where(mask, 1, -1), np.where(mask, per_row[:, None], 0).astype(np.float32))
    own, found = np.array(kinds) == "own", list[tuple[float, float]]()
    for _ in range(2000):
        drawn = np.concatenate([units[i] for i in rng.integers(0, passages, passages)])
        nats, mine = per_row[drawn], own[drawn]
        found.append((nats.mean(), nats[~mine].mean() - nats[mine].mean()))
    measured = measure_likelihood(predicted, rows, kinds, CONTROL)
    assert measured.gap is not None
    for estimate, expected in zip((measured.tokens.nats, measured.gap.nats), np.transpose(found), strict=True):
        low, high = np.quantile(expected, [0.025, 0.975])
        assert estimate.interval == pytest.approx((low, high), abs=0.15 * (high - low))
    low, high = measured.gap.nats.interval
    assert high - low < 0.5  # rows alone: 2 x 1.96 x 3 x sqrt(2 / 300) = 0.96


def test_a_depth_without_a_control_has_no_gap() -> None:
    rng = np.random.default_rng()
    rows = Rows.of([[0, 1, 2]] * 8, [[1, 2]] * 8, [[1, 1]] * 8, [[1, 2 + i % 2] for i in range(8)])
    for kinds, depths in ((["other", "own"] * 4, {1}), (["other"] * 4 + ["own"] * 4, {1, 2, 3})):
        gap = measure_likelihood(drawn_predictions(rng, rows), rows, kinds, CONTROL).gap
        assert gap is not None and gap.depths.keys() == depths
        assert all(np.isfinite(each.interval).all() for each in gap.depths.values())


def test_kinds_without_a_control_have_no_gap() -> None:
    """Forward and reverse problems of GSM, or documents of 4 and of 8 facts, say nothing of memory."""
    rng = np.random.default_rng()
    rows = random_rows(rng, 9)
    predicted = drawn_predictions(rng, rows)
    assert measure_likelihood(predicted, rows).kinds == {} and measure_likelihood(predicted, rows).gap is None
    for kinds, control in ((["a", "b", "c"], None), (["forward", "forward", "reverse"], None), (["own"], CONTROL)):
        found = measure_likelihood(predicted, rows, kinds * (9 // len(kinds)), control)
        assert found.gap is None and set(found.kinds) == set(kinds)


def test_intervals_of_nats_are_those_of_drawing_rows_again_and_again() -> None:
    """Rows of unequal numbers of tokens, and of unequal likelihood: as uncertain as the rows, not as the tokens."""
    rng = np.random.default_rng()
    rows = random_rows(rng, 200)
    predicted, kinds = drawn_predictions(rng, rows), ["other"] * 100 + ["own"] * 100  # no row follows that of a control
    of_row = rng.exponential(1.0, 200)
    predicted = predicted._replace(nats=(predicted.nats * of_row[:, None]).astype(np.float32))
    measured = measure_likelihood(predicted, rows, kinds, CONTROL, 4000)
    sums, counts = predicted.nats.sum(1, dtype=np.float64), rows.loss_mask().sum(1)
    own = np.array(kinds) == "own"
    means, gaps = [], []
    for _ in range(4000):
        drawn = rng.integers(0, 200, 200)
        s, c, mine = sums[drawn], counts[drawn], own[drawn]
        means.append(s.sum() / c.sum())
        gaps.append(s[~mine].sum() / c[~mine].sum() - s[mine].sum() / c[mine].sum())
    assert measured.gap is not None
    for found, expected in ((measured.tokens.nats, means), (measured.gap.nats, gaps)):
        low, high = np.quantile(expected, [0.025, 0.975])
        assert found.interval == pytest.approx((low, high), abs=0.12 * (high - low))
    width = measured.tokens.nats.interval[1] - measured.tokens.nats.interval[0]
    assert width > 1.3 * 2 * 1.96 * predicted.nats[rows.loss_mask()].std() / counts.sum() ** 0.5


def test_intervals_are_the_same_again_and_in_any_order_of_the_pairs() -> None:
    rng = np.random.default_rng()
    rows, order = random_rows(rng, 60), (2 * rng.permutation(30)[:, None] + [0, 1]).ravel()
    predicted, kinds = drawn_predictions(rng, rows), ["own", "other"] * 30
    first = measure_likelihood(predicted, rows, kinds, CONTROL)
    assert measure_likelihood(predicted, rows, kinds, CONTROL) == first
    again = measure_likelihood(Predictions(*(x[order] for x in predicted)), rows[order], kinds, CONTROL)
    assert again.tokens.right == first.tokens.right
    assert again.tokens.nats.interval == pytest.approx(first.tokens.nats.interval, rel=1e-9)
    assert again.gap is not None and first.gap is not None
    assert again.gap.nats.interval == pytest.approx(first.gap.nats.interval, rel=1e-9)


def test_an_estimate_of_nats_over_seeds_is_not_clipped_as_a_share_is() -> None:
    seeds = [Estimate(1.5, (1.4, 1.6)), Estimate(1.9, (1.8, 2.0))]
    assert Estimate.of(seeds[:1]) == seeds[0]
    mean = Mean.of([1.5, 1.9])
    assert Estimate.of(seeds) == Estimate(mean.mean, (mean.mean - mean.half_width, mean.mean + mean.half_width))
