"""Accuracy against the passes that a rule makes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from datagen import Rows
from sleepmodel import Halting
from sleepmodel.config.model import SLEEP_ON
from sleepmodel.evaluation.accuracy import predict
from sleepmodel.evaluation.halting import measure_passes, predict_halting
from sleepmodel.inputs import predicting_windows, sleeping_windows
from tests.sleepmodel.conftest import build_small
from tests.sleepmodel.test_halting import WINDOWS, counting_up
from tests.sleepmodel.test_padding import batches, padded

PAD = 5  # a token behind the vocabulary of the model


def as_rows(tokens: Tensor, mask: Tensor) -> Rows:
    """Each answer is one token, of depth 1 in the first row, 2 in the second, and so on."""
    places = [row.nonzero()[:, 0].tolist() for row in mask]
    # what fills a row up on its right is not part of it
    ends = [int((row >= 0).nonzero().max()) + 1 for row in tokens]
    return Rows.of(
        [row[:end].where(row[:end] >= 0, torch.tensor(PAD)).tolist() for row, end in zip(tokens, ends, strict=True)],
        places,
        [[1] * len(row) for row in places],
        [[i + 1] * len(row) for i, row in enumerate(places)],
        pad=PAD,
    )


@pytest.mark.parametrize(("sleep_on", "eviction"), list(zip(SLEEP_ON, ("sliding", "hard"), strict=True)))
@settings(max_examples=10)
@given(data=st.data(), carry=st.sampled_from([{"carry": "token"}, {"reads_first": True}]))
def test_the_first_and_the_last_pass_are_the_forward_with_that_n(
    sleep_on: str, eviction: str, data: st.DataObject, carry: dict[str, Any]
) -> None:
    """A rule that every pass meets, and one that none does, on rows of all lengths and with answers in any windows."""
    model = build_small(sleep_on=sleep_on, eviction=eviction, **carry)
    tokens, mask = padded(*data.draw(batches(sleep_on)))
    rows, first = as_rows(tokens, mask), 2 + model.config.reads_first
    slept = sleeping_windows(tokens, predicting_windows(mask, 6), model.config).sum(1)
    for rule, n in ((Halting(1.0), first), (Halting(0.0, "state"), 5)):
        found = predict_halting(model, rows, rule, 5, batch_size=3)
        expected = predict(model, rows, n)
        assert found.sleeps.tolist() == slept.tolist() and found.passes.tolist() == (n * slept).tolist()
        assert np.array_equal(found.predicted.tokens, expected.tokens)
        np.testing.assert_allclose(found.predicted.nats, expected.nats, rtol=1e-6, atol=1e-6)


def test_passes_are_counted_by_sleep_and_by_depth() -> None:
    """Rows of two windows to sleep on and one of answers: their last token, which this model can copy."""
    model = counting_up(carry="token")
    tokens = torch.cat((WINDOWS, WINDOWS.roll(1, 0), torch.tensor([[3, 4], [3, 4], [2, 4], [0, 0]])), 1)
    answers = np.full((4, 1), 13, np.int32)
    rows = Rows(
        tokens.numpy().astype(np.uint16), answers, np.ones_like(answers), np.array([[7], [7], [8], [8]], np.int32)
    )
    one, two, halted = measure_passes(model, rows, (1, 2), [Halting()], 9, resamples=20)
    assert (one.most, one.passes, one.halting, one.depths) == (1, 1.0, None, {7: 1.0, 8: 1.0})
    # passes of each row in its two windows: 2 + 2, 3 + 2, 5 + 3, 2 + 5
    assert halted.passes == 24 / 8 and halted.depths == {7: 9 / 4, 8: 15 / 4}
    assert one.accuracy == two.accuracy == halted.accuracy and halted.accuracy.rows.right == 2


@pytest.mark.parametrize(
    ("asked", "most", "message"),
    [
        (2, 3, "window = 6: must be so short that it ends before the answers of some row"),
        (7, 2, "sleep_passes = 2: must be at least 3 with halting"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_setting(asked: int, most: int, message: str) -> None:
    tokens = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2, 3]])
    rows = as_rows(tokens, torch.arange(9)[None] == asked)
    with pytest.raises(ValueError, match=message):
        next(measure_passes(build_small(), rows, (1, 2), [Halting()], most))


def test_no_rows_are_refused() -> None:
    none = as_rows(torch.ones(1, 9, dtype=torch.int64), torch.arange(9)[None] == 7)[slice(0, 0)]
    with pytest.raises(ValueError, match="rows = 0: must be at least 1"):
        next(measure_passes(build_small(), none, (1,), [Halting()], 3))
    with pytest.raises(ValueError, match="rows = 0: must be at least 1"):
        predict_halting(build_small(), none, Halting(), 3)
