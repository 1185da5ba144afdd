"""Nats and right tokens of the answers: against float64, slow loops and the bootstrap as it is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datagen import Rows
from sleepmodel.evaluation import accuracy
from sleepmodel.evaluation.accuracy import BATCH_LOGITS, BATCH_ROWS, BATCH_TOKENS, Predictions, batch_rows, predict
from sleepmodel.evaluation.likelihood import TokenScores, measure_likelihood
from sleepmodel.evaluation.statistics import Estimate, Mean
from tests.sleepmodel.conftest import MakeModel
from tests.sleepmodel.test_evaluation import random_rows

KINDS = ("other", "own")


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
    measured = measure_likelihood(predicted, rows, kinds, 10)
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


def test_pairs_of_rows_are_drawn_together() -> None:
    """Recall asks for a passage in a row of either kind. Passages differ by far more than the kinds do."""
    rng = np.random.default_rng()
    passage, own = rng.exponential(3.0, 300), rng.normal(0.5, 0.05, 300)
    per_row = np.stack([passage + own, passage], axis=1).ravel()
    rows = Rows.of([[0, 1, 2]] * 600, [[1]] * 600, [[2]] * 600, [[1]] * 600)
    mask = rows.loss_mask()
    predicted = Predictions(np.where(mask, 1, -1), np.where(mask, per_row[:, None], 0).astype(np.float32))
    paired = measure_likelihood(predicted, rows, ["other", "own"] * 300)
    assert paired.gap is not None and paired.gap.nats.value == pytest.approx(own.mean(), rel=1e-4)
    low, high = paired.gap.nats.interval
    assert high - low == pytest.approx(2 * 1.96 * own.std() / 300**0.5, rel=0.2)  # the normal approximation
    low, high = paired.tokens.nats.interval
    assert high - low == pytest.approx(2 * 1.96 * passage.std() / 300**0.5, rel=0.2)  # 300 passages, not 600 rows
    # one pair of one kind: rows are drawn alone
    alone = measure_likelihood(predicted, rows, ["own", "own", *["other", "own"] * 298, "other", "other"])
    assert alone.gap is not None
    low, high = alone.gap.nats.interval
    assert high - low > 0.5


def test_a_depth_of_one_kind_has_no_gap() -> None:
    rng = np.random.default_rng()
    rows = Rows.of([[0, 1, 2]] * 8, [[1, 2]] * 8, [[1, 1]] * 8, [[1, 2 + i % 2] for i in range(8)])
    for kinds, depths in ((["other", "own"] * 4, {1}), (["other"] * 4 + ["own"] * 4, {1, 2, 3})):
        gap = measure_likelihood(drawn_predictions(rng, rows), rows, kinds).gap
        assert gap is not None and gap.depths.keys() == depths
        assert all(np.isfinite(each.interval).all() for each in gap.depths.values())


def test_only_two_kinds_have_a_gap() -> None:
    rng = np.random.default_rng()
    rows = random_rows(rng, 9)
    predicted = drawn_predictions(rng, rows)
    assert measure_likelihood(predicted, rows).kinds == {} and measure_likelihood(predicted, rows).gap is None
    three = measure_likelihood(predicted, rows, ["a", "b", "c"] * 3)
    assert three.gap is None and set(three.kinds) == {"a", "b", "c"}


def test_intervals_of_nats_are_those_of_drawing_rows_again_and_again() -> None:
    """Rows of unequal numbers of tokens, and of unequal likelihood: as uncertain as the rows, not as the tokens."""
    rng = np.random.default_rng()
    rows = random_rows(rng, 200)
    predicted, kinds = drawn_predictions(rng, rows), drawn_kinds(rng, 200)
    of_row = rng.exponential(1.0, 200)
    predicted = predicted._replace(nats=(predicted.nats * of_row[:, None]).astype(np.float32))
    measured = measure_likelihood(predicted, rows, kinds, 4000)
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


def test_intervals_are_the_same_again_and_in_any_order_of_the_rows() -> None:
    rng = np.random.default_rng()
    rows, order = random_rows(rng, 60), rng.permutation(60)
    predicted, kinds = drawn_predictions(rng, rows), drawn_kinds(rng, 60)
    first = measure_likelihood(predicted, rows, kinds)
    assert measure_likelihood(predicted, rows, kinds) == first
    again = measure_likelihood(Predictions(*(x[order] for x in predicted)), rows[order], [kinds[i] for i in order])
    assert again.tokens.right == first.tokens.right
    assert again.tokens.nats.interval == pytest.approx(first.tokens.nats.interval, rel=1e-9)
    assert again.gap is not None and first.gap is not None
    assert again.gap.nats.interval == pytest.approx(first.gap.nats.interval, rel=1e-9)


def test_an_estimate_of_nats_over_seeds_is_not_clipped_as_a_share_is() -> None:
    seeds = [Estimate(1.5, (1.4, 1.6)), Estimate(1.9, (1.8, 2.0))]
    assert Estimate.of(seeds[:1]) == seeds[0]
    mean = Mean.of([1.5, 1.9])
    assert Estimate.of(seeds) == Estimate(mean.mean, (mean.mean - mean.half_width, mean.mean + mean.half_width))
