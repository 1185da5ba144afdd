"""Rows: the loss mask, slicing, shape checks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Rows


@st.composite
def random_rows(draw: st.DrawFn) -> Rows:
    n, width, answers = (draw(st.integers(1, 8)), draw(st.integers(1, 20)), draw(st.integers(1, 4)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    start = rng.integers(0, width, (n, answers), dtype=np.int32)
    return Rows(
        tokens=rng.integers(0, 2**16, (n, width), dtype=np.uint16),
        answer_start=start,
        answer_length=rng.integers(1, width - start + 1, dtype=np.int32),
        answer_depth=rng.integers(0, 9, (n, answers), dtype=np.int32),
    )


@given(random_rows())
def test_loss_mask_is_the_union_of_the_answers(rows: Rows) -> None:
    expected = np.zeros(rows.tokens.shape, dtype=bool)
    for i in range(len(rows)):
        for start, length in zip(rows.answer_start[i], rows.answer_length[i], strict=True):
            expected[i, start : start + length] = True
    assert (rows.loss_mask() == expected).all()


@given(random_rows(), st.data())
def test_indexing_takes_whole_rows(rows: Rows, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1)))
    taken = rows[index]
    assert len(taken) == len(index)
    for name, values in rows.columns().items():
        assert (getattr(taken, name) == values[index]).all()
    assert (rows.loss_mask(index) == rows.loss_mask()[index]).all()
    assert (rows[1:].answer_start == rows.answer_start[1:]).all()


def test_refuses_arrays_that_do_not_belong_together() -> None:
    tokens, one, two = (np.zeros((2, 5), np.uint16), np.zeros((1, 3), np.int32), np.zeros((2, 3), np.int32))
    Rows(tokens, two, two, two)
    for answers in ((one, one, one), (two, two, one)):
        with pytest.raises(ValueError, match="same n"):
            Rows(tokens, *answers)
