"""Exact match: a row needs all of its answers, an answer all of its tokens."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from datagen import Recall, Rows
from sleepmodel import ModelConfig
from sleepmodel.evaluation.accuracy import Accuracy, Predictions, accuracy, predict, score
from sleepmodel.evaluation.likelihood import measure_likelihood
from sleepmodel.evaluation.statistics import Estimate, Mean, Share, bootstrap
from sleepmodel.model import Output
from tests.sleepmodel.conftest import MakeModel

ROWS = Rows(
    tokens=np.array([[1, 1, 9, 2, 3, 4], [1, 1, 9, 2, 3, 4], [1, 1, 9, 2, 3, 4]], np.uint16),
    answer_start=np.array([[3, 5]] * 3, np.int32),
    answer_length=np.array([[2, 1]] * 3, np.int32),
    answer_depth=np.array([[1, 8], [1, 8], [8, 1]], np.int32),
)


def test_exact_match_by_row_and_by_depth() -> None:
    predicted = np.full((3, 6), -1)
    predicted[0, 3:] = [2, 3, 4]  # all right
    predicted[1, 3:] = [2, 0, 4]  # half of the first answer is wrong
    predicted[2, 3:] = [2, 3, 0]  # the second answer is wrong
    measured = score(predicted, ROWS)
    assert measured.rows == Share(1, 3)
    assert measured.answers == {1: Share(1, 3), 8: Share(3, 3)}
    assert measured.kinds == {}
    of_kinds = score(predicted, ROWS, kinds=["up", "up", "down"])
    assert of_kinds.kinds == {"down": Share(0, 1), "up": Share(1, 2)}
    assert (of_kinds.rows, of_kinds.answers) == (measured.rows, measured.answers)


def test_an_answer_without_a_prediction_is_wrong(make_model: MakeModel) -> None:
    assert score(np.full((3, 6), -1), ROWS).rows == Share(0, 3)
    with pytest.raises(ValueError, match="batch_size = 0: must be an integer of at least 1"):
        predict(make_model(vocab_size=10, window=8), ROWS, batch_size=0)


def test_predictions_are_the_argmax_of_the_training_forward(make_model: MakeModel) -> None:
    model = make_model(vocab_size=10, window=8, dtype=torch.float32)
    mask = torch.from_numpy(ROWS.loss_mask())
    logits = model(torch.from_numpy(ROWS.tokens.astype(np.int64)), mask).logits
    predicted = predict(model, ROWS, batch_size=2).tokens
    assert np.array_equal(predicted[mask.numpy()], logits.argmax(-1).numpy())
    assert (predicted[~mask.numpy()] == -1).all()


def test_predictions_are_made_with_as_many_passes_as_asked(make_model: MakeModel) -> None:
    model = make_model(dtype=torch.float32, sleep_passes=2, mixers=("attention", "gated_delta") * 2)
    tokens = np.random.default_rng(0).integers(0, 5, (64, 14))
    answers = np.full((64, 1), 13, np.int32)
    rows = Rows(tokens.astype(np.uint16), answers, np.ones_like(answers), np.ones_like(answers))
    mask = torch.from_numpy(rows.batch()[1])
    for passes in (None, 1, 4):
        logits = model(torch.from_numpy(tokens), mask, passes).logits
        assert np.array_equal(predict(model, rows, passes).tokens[mask.numpy()], logits.argmax(-1).numpy())
    assert not np.array_equal(predict(model, rows, 4).tokens, predict(model, rows).tokens)
    assert accuracy(model, rows, 4) == score(predict(model, rows, 4).tokens, rows)


class Oracle(torch.nn.Module):
    """Predicts what stands there."""

    config = ModelConfig(vocab_size=10)

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, sleep_passes: int | None = None) -> Output:
        return Output(self.weight, torch.nn.functional.one_hot(tokens[mask], 10))


def test_no_rows_are_refused(make_model: MakeModel) -> None:
    none = random_rows(np.random.default_rng(0), 2)[slice(0, 0)]
    for size in (None, 2):
        with pytest.raises(ValueError, match=r"rows = 0: must be at least 1: .* nothing to predict"):
            predict(make_model(), none, batch_size=size)


def test_rows_without_answers_count_nowhere(make_model: MakeModel) -> None:
    """They are neither right nor wrong, and no kind of them alone is reported."""
    unasked = Rows.of([[9, 1, 9, 2]] * 4, [[1], [], [3], []], [[3], [], [1], []], [[1], [], [8], []])
    predicted = predict(Oracle(), unasked).tokens  # type: ignore[arg-type]
    predicted[2, 3] = 0
    kinds = ["a", "a", "b", "empty"]
    found = score(predicted, unasked, 100, kinds)
    assert (found.rows.right, found.rows.total) == (1, 2)
    assert {kind: (share.right, share.total) for kind, share in found.kinds.items()} == {"a": (1, 1), "b": (0, 1)}
    asked = np.array([0, 2])
    alone = Predictions(predicted[asked], np.ones((2, 4), np.float32))
    with_all = Predictions(predicted, np.ones((4, 4), np.float32))
    likelihood = measure_likelihood(with_all, unasked, kinds)
    assert likelihood.kinds.keys() == {"a", "b"}
    assert likelihood.tokens.right == replace(
        measure_likelihood(alone, unasked[asked]).tokens.right, interval=likelihood.tokens.right.interval
    )
    with pytest.raises(ValueError, match=r"rows with answers = 0: must be at least 1 of 2: .* nothing to predict"):
        predict(make_model(), unasked[np.array([1, 3])])


def test_rows_of_unequal_length() -> None:
    rows = Rows.of(
        tokens=[[9, 1, 9, 2], [1, 2, 9, 4, 5, 9, 3], [9, 6, 3]],
        answer_start=[[1], [3, 6], [2]],
        answer_length=[[3], [2, 1], [1]],
        answer_depth=[[1], [1, 8], [8]],
    )
    predicted = predict(Oracle(), rows, batch_size=2).tokens  # type: ignore[arg-type]
    assert predicted.tolist() == [[-1, 1, 9, 2, -1, -1, -1], [-1, -1, -1, 4, 5, -1, 3], [-1, -1, 3, -1, -1, -1, -1]]
    assert score(predicted, rows).rows == Share(3, 3)
    predicted[1, 6] = 0
    assert score(predicted, rows) == Accuracy(Share(2, 3), {1: Share(2, 2), 8: Share(1, 2)})


def random_rows(rng: np.random.Generator, count: int) -> Rows:
    """Rows of unequal length with 1 to 4 answers of 1 or 2 tokens behind a prompt, asked at depths 1 to 3."""
    tokens, start, length, depth = [], [], [], []
    for _ in range(count):
        lengths = rng.integers(1, 3, rng.integers(1, 5)).tolist()
        starts = (5 + np.cumsum([0, *lengths[:-1]])).tolist()
        tokens.append(rng.integers(0, 3, 5 + sum(lengths)).tolist())
        start.append(starts)
        length.append(lengths)
        depth.append(rng.integers(1, 4, len(lengths)).tolist())
    return Rows.of(tokens, start, length, depth)


def counted(rows: Rows, predicted: np.ndarray) -> list[dict[int, list[bool]]]:
    """Of each row, which answers of each depth are right, one by one; all of them stand under 0 too."""
    found = []
    columns = (
        rows.tokens.tolist(),
        rows.answer_start.tolist(),
        rows.answer_length.tolist(),
        rows.answer_depth.tolist(),
    )
    for i, (tokens, *answers) in enumerate(zip(*columns, strict=True)):
        of_row: dict[int, list[bool]] = {0: []}
        for start, length, depth in zip(*answers, strict=True):
            right = tokens[start : start + length] == predicted[i, start : start + length].tolist()
            of_row.setdefault(depth, []).append(right)
            of_row[0].append(right)
        found.append(of_row)
    return found


def test_scores_are_those_of_counting_one_by_one() -> None:
    rng = np.random.default_rng()
    rows = random_rows(rng, 60)
    mask = rows.loss_mask()
    predicted = np.where(mask, rng.integers(0, 3, mask.shape), -1)
    expected = counted(rows, predicted)
    measured = score(predicted, rows)
    assert measured.rows == Share(sum(all(row[0]) for row in expected), 60)
    for depth in (1, 2, 3):
        answers = [right for row in expected for right in row.get(depth, [])]
        assert measured.answers[depth] == Share(sum(answers), len(answers))


def test_intervals_are_those_of_drawing_rows_again_and_again() -> None:
    """Against the bootstrap as it is told: draw as many rows, with replacement, and take the share."""
    rng = np.random.default_rng()
    rows = random_rows(rng, 200)
    tokens, mask = rows.batch()
    wrong = mask & (rng.random(mask.shape) < 0.3)
    predicted = np.where(mask, (tokens + wrong) % 3, -1)
    of_row, measured = counted(rows, predicted), score(predicted, rows, 4000)
    shares: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for _ in range(1500):
        drawn = [of_row[i] for i in rng.integers(0, 200, 200)]
        for depth, found in shares.items():
            found.append(float(np.mean([right for row in drawn for right in row.get(depth, [])])))
    for depth, found in shares.items():
        assert measured.answers[depth].interval == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=0.02)


def test_pairs_that_stand_and_fall_together_count_once() -> None:
    """Two rows of a pair, all of them right or wrong together: as uncertain as one row."""
    rng = np.random.default_rng()
    right = np.repeat(rng.permutation(np.arange(200) % 2), 2)
    rows = Rows.of([[0, 1]] * 400, [[1]] * 400, [[1]] * 400, [[1]] * 400)
    predicted = np.where(rows.loss_mask(), right[:, None], -1)
    for kinds, control, units in (
        (["own", "other"] * 200, Recall.control, 200),
        (["own", "other"] * 200, None, 400),
        (["other"] * 200 + ["own"] * 200, Recall.control, 400),
    ):
        interval = score(predicted, rows, 4000, kinds, control).rows.interval
        assert interval is not None
        assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * 0.5 / units**0.5, rel=0.2)


def test_answers_that_stand_and_fall_together_count_once() -> None:
    """Ten answers a row, all right or all wrong: as uncertain as one answer a row."""
    together = np.repeat(np.arange(400)[:, None] % 2, 10, axis=1)
    ones, tens = np.ones((400, 1), np.int64), np.full((400, 1), 10)
    (low, high), (wide_low, wide_high) = (
        bootstrap(together[:, :1], ones, 4000)[0],
        bootstrap(together.sum(1, keepdims=True), tens, 4000)[0],
    )
    assert (wide_low, wide_high) == pytest.approx((low, high), abs=0.01)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 20, abs=0.015)  # the normal approximation


def test_intervals_know_neither_the_order_of_rows_nor_a_share_outside_0_and_1() -> None:
    rng = np.random.default_rng()
    total = rng.integers(1, 4, (100, 3))
    hits = np.stack([np.zeros(100, np.int64), total[:, 1], rng.integers(0, total[:, 2] + 1)], axis=1)
    intervals, order = bootstrap(hits, total), rng.permutation(100)
    assert bootstrap(hits[order], total[order]) == intervals
    assert all(0 <= low <= high <= 1 for low, high in intervals)
    # none and all of 100 rows right: Wilson's z^2 / (n + z^2), which is no point
    assert intervals[0] == pytest.approx((0, 0.03699), abs=1e-4)
    assert intervals[1] == pytest.approx((0.96301, 1), abs=1e-4)


def test_students_interval_of_a_mean_of_shares() -> None:
    mean = Mean.of([0.7, 0.8, 0.9])
    assert mean.mean == pytest.approx(0.8)
    assert mean.half_width == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)  # t with 2 degrees of freedom
    assert math.isinf(Mean.of([0.7]).half_width)
    assert mean.interval == pytest.approx((0.8 - mean.half_width, 1))


def test_an_estimate_is_over_seeds_where_there_are_several() -> None:
    one = Share(90, 100, (0.83, 0.95))
    assert str(Estimate.of([one])) == "0.900 [0.830, 0.950]"
    assert Estimate.of([one, Share(100, 100, (0.96, 1.0))]) == Estimate(0.95, Mean.of([0.9, 1.0]).interval)
