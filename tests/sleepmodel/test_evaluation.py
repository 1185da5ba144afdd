"""Exact match: a row needs all of its answers, an answer all of its tokens."""

import math

import numpy as np
import pytest
import torch

from datagen import Rows
from sleepmodel.evaluation import Mean, Share, accuracy, predict, score
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


def test_predictions_are_the_argmax_of_the_training_forward(make_model: MakeModel) -> None:
    model = make_model(vocab_size=10, window=8, dtype=torch.float32)
    mask = torch.from_numpy(ROWS.loss_mask())
    logits = model(torch.from_numpy(ROWS.tokens.astype(np.int64)), mask).logits
    predicted = predict(model, ROWS, batch_size=2)
    assert np.array_equal(predicted[mask.numpy()], logits.argmax(-1).numpy())
    assert (predicted[~mask.numpy()] == -1).all()


def test_predictions_are_made_with_as_many_passes_as_asked(make_model: MakeModel) -> None:
    model = make_model(dtype=torch.float32, sleep_passes=2, mixers=("attention", "gated_delta") * 2)
    tokens = np.random.default_rng(0).integers(0, 5, (64, 14))
    answers = np.full((64, 1), 13, np.int32)
    rows = Rows(tokens.astype(np.uint16), answers, np.ones_like(answers), np.ones_like(answers))
    mask = torch.from_numpy(rows.loss_mask())
    for passes in (None, 1, 4):
        logits = model(torch.from_numpy(tokens), mask, passes).logits
        assert np.array_equal(predict(model, rows, passes)[mask.numpy()], logits.argmax(-1).numpy())
    assert not np.array_equal(predict(model, rows, 4), predict(model, rows))
    assert accuracy(model, rows, 4) == score(predict(model, rows, 4), rows)


def test_wilson_and_student_intervals() -> None:
    low, high = Share(50, 100).interval
    assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-4)  # Wilson, 95 %, tabulated
    mean = Mean.of([0.7, 0.8, 0.9])
    assert mean.mean == pytest.approx(0.8)
    assert mean.half_width == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)  # t with 2 degrees of freedom
    assert math.isinf(Mean.of([0.7]).half_width) and str(Mean.of([0.7])) == "0.700"
