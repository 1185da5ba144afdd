"""Exact match: a row needs all of its answers, an answer all of its tokens."""

import math

import numpy as np
import pytest
import torch

from datagen import Rows
from sleepmodel.evaluation import Accuracy, Mean, Share, accuracy, predict, score
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
    mask = torch.from_numpy(rows.batch()[1])
    for passes in (None, 1, 4):
        logits = model(torch.from_numpy(tokens), mask, passes).logits
        assert np.array_equal(predict(model, rows, passes)[mask.numpy()], logits.argmax(-1).numpy())
    assert not np.array_equal(predict(model, rows, 4), predict(model, rows))
    assert accuracy(model, rows, 4) == score(predict(model, rows, 4), rows)


class Oracle(torch.nn.Module):
    """Predicts what stands there."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, sleep_passes: int | None = None) -> Output:
        return Output(self.weight, torch.nn.functional.one_hot(tokens[mask], 10))


def test_rows_of_unequal_length() -> None:
    rows = Rows.of(
        tokens=[[9, 1, 9, 2], [1, 2, 9, 4, 5, 9, 3], [9, 6, 3]],
        answer_start=[[1], [3, 6], [2]],
        answer_length=[[3], [2, 1], [1]],
        answer_depth=[[1], [1, 8], [8]],
    )
    predicted = predict(Oracle(), rows, batch_size=2)  # type: ignore[arg-type]
    assert predicted.tolist() == [[-1, 1, 9, 2, -1, -1, -1], [-1, -1, -1, 4, 5, -1, 3], [-1, -1, 3, -1, -1, -1, -1]]
    assert score(predicted, rows).rows == Share(3, 3)
    predicted[1, 6] = 0
    assert score(predicted, rows) == Accuracy(Share(2, 3), {1: Share(2, 2), 8: Share(1, 2)})


def test_wilson_and_student_intervals() -> None:
    low, high = Share(50, 100).interval
    assert (low, high) == pytest.approx((0.40383, 0.59617), abs=1e-4)  # Wilson, 95 %, tabulated
    mean = Mean.of([0.7, 0.8, 0.9])
    assert mean.mean == pytest.approx(0.8)
    assert mean.half_width == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-4)  # t with 2 degrees of freedom
    assert math.isinf(Mean.of([0.7]).half_width) and str(Mean.of([0.7])) == "0.700"
