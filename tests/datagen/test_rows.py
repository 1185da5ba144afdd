"""Rows, of one length and of several: batches, the loss mask, slicing, shape checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import PAD, Rows
from datagen.rows import COLUMNS, Ragged, pad_id


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


Lists = list[list[int]]


@st.composite
def random_lists(draw: st.DrawFn) -> dict[str, Lists]:
    """The columns of ragged rows, as lists: rows of 0 to 9 tokens below 100, those with tokens have 0 to 3 answers."""
    columns: dict[str, Lists] = {name: [] for name in COLUMNS}
    for _ in range(draw(st.integers(1, 6))):
        tokens = draw(st.lists(st.integers(0, 99), max_size=9))
        starts = draw(st.lists(st.integers(0, len(tokens) - 1), max_size=3)) if tokens else []
        columns["tokens"].append(tokens)
        columns["answer_start"].append(starts)
        columns["answer_length"].append([draw(st.integers(1, len(tokens) - start)) for start in starts])
        columns["answer_depth"].append([draw(st.integers(0, 9)) for _ in starts])
    return columns


@given(random_lists(), st.data())
def test_a_batch_is_padded_to_its_longest_row(columns: dict[str, Lists], data: st.DataObject) -> None:
    pad = data.draw(st.one_of(st.none(), st.integers(0, 99)))
    rows = Rows.of(**columns, pad=pad)
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    longest = max(len(columns["tokens"][i]) for i in index)
    expected = np.full((len(index), longest), PAD)
    answer = np.zeros((len(index), longest), dtype=bool)
    for place, i in enumerate(index):
        for t, token in enumerate(columns["tokens"][i]):
            expected[place, t] = PAD if token == pad else token
        for start, length in zip(columns["answer_start"][i], columns["answer_length"][i], strict=True):
            answer[place, start : start + length] = True

    tokens, mask = rows.batch(np.array(index))
    assert tokens.dtype == np.int64 and mask.dtype == np.bool_
    assert (tokens == expected).all() and tokens.shape == expected.shape
    assert (mask == answer).all() and mask.shape == expected.shape


@given(random_lists(), st.data())
def test_indexing_takes_whole_ragged_rows(columns: dict[str, Lists], data: st.DataObject) -> None:
    rows = Rows.of(**columns, pad=7)
    assert {name: column.tolist() for name, column in rows.columns().items()} == columns
    assert rows.lengths.tolist() == [len(tokens) for tokens in columns["tokens"]]
    index = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1)))
    keep = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    first, last = data.draw(st.integers(0, 6)), data.draw(st.integers(0, 6))
    for taken, wanted in (
        (rows[np.array(index, dtype=np.intp)], index),
        (rows[np.array(keep)], np.flatnonzero(keep)),
        (rows[first:last], range(len(rows))[first:last]),
    ):
        assert taken.pad == 7 and len(taken) == len(wanted)
        for name, column in taken.columns().items():
            assert column.tolist() == [columns[name][i] for i in wanted]


@given(random_rows())
def test_rows_of_one_length_are_the_same_as_arrays_and_as_lists(rows: Rows) -> None:
    lists = {name: column.tolist() for name, column in rows.columns().items()}
    for ours, theirs in zip(rows.batch(), Rows.of(**lists).batch(), strict=True):
        assert (ours == theirs).all() and ours.shape == theirs.shape
    assert (rows.lengths == rows.tokens.shape[1]).all() and len(rows.lengths) == len(rows)


@given(random_lists(), st.data())
def test_traces_stand_where_their_tokens_do_in_a_batch(columns: dict[str, Lists], data: st.DataObject) -> None:
    told = [
        [data.draw(st.lists(st.integers(-1, 99), min_size=len(row), max_size=len(row))) for _ in range(count)]
        for row in columns["tokens"]
        for count in [data.draw(st.integers(0, 3)) if row else 0]
    ]
    rows = Rows.of(**columns, traces=[[label for trace in each for label in trace] for each in told])
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1))
    traces = rows.trace_batch(np.array(index))
    assert traces is not None and traces.dtype == np.int64
    assert traces.shape == (len(index), max(len(told[i]) for i in index), rows.batch(np.array(index))[0].shape[1])
    for found, i in zip(traces, index, strict=True):
        expected = np.full(found.shape, -1)
        for p, trace in enumerate(told[i]):
            expected[p, : len(trace)] = trace
        assert (found == expected).all()
    assert rows.trace_counts.tolist() == [len(each) for each in told]
    joined = Rows.joined([rows[index[:1]], rows])
    assert joined.traces is not None and rows.traces is not None
    assert joined.traces.tolist() == [rows.traces.tolist()[index[0]], *rows.traces.tolist()]


def test_rows_of_one_length_can_have_traces_and_most_have_none() -> None:
    one = np.ones((2, 1), np.int32)
    rows = Rows(np.zeros((2, 3), np.uint16), one, one, one, traces=Ragged.of(np.arange(9), np.array([6, 3])))
    found = rows[1:].trace_batch()
    assert found is not None and found.tolist() == [[[6, 7, 8]]]
    assert replace(rows, traces=None).trace_batch() is None and set(replace(rows, traces=None).columns()) == {*COLUMNS}


@pytest.mark.parametrize(
    ("lengths", "message"),
    [([3, 4], "row 1 has 4 labels in its traces: must be a multiple of its 3 tokens"), ([3], r"must be \[2\]")],
)
def test_refuses_traces_without_a_label_for_each_token(lengths: list[int], message: str) -> None:
    one = np.ones((2, 1), np.int32)
    with pytest.raises(ValueError, match=message):
        Rows(np.zeros((2, 3), np.uint16), one, one, one, traces=Ragged.of(np.arange(sum(lengths)), np.array(lengths)))


def test_absent_answers_have_length_zero() -> None:
    rows = Rows.of([[1, 2, 3], [4]], [[1, 2], [0]], [[1, 1], [1]], [[5, 6], [7]])
    start, length, depth = rows.answers()
    assert start.tolist() == [[1, 2], [0, 0]]
    assert length.tolist() == [[1, 1], [1, 0]]
    assert depth.tolist() == [[5, 6], [7, 0]]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, 0), (2, 2), (3, 1)])
def test_lists_refuse_an_answer_outside_its_row(start: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"row 1: .* 3 tokens, got start {start}, length {length}"):
        Rows.of([[1], [1, 2, 3]], [[], [start]], [[], [length]], [[], [1]])


def test_lists_refuse_a_token_that_does_not_fit() -> None:
    with pytest.raises(OverflowError):
        Rows.of([[2**16]], [[]], [[]], [[]])
    assert Rows.of([[2**16]], [[]], [[]], [[]], dtype=np.uint32).batch()[0].tolist() == [[2**16]]


def test_a_pad_is_the_last_of_the_vocabulary() -> None:
    assert [pad_id(names) for names in ((), ("a",), ("<pad>", "a"), ("a", "<pad>"))] == [None, None, None, 1]


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


def test_refuses_ragged_columns_that_do_not_belong_together() -> None:
    three, two = Ragged.of(np.arange(6), np.array([3, 2, 1])), Ragged.of(np.arange(6), np.array([3, 3]))
    Rows(three, three, three, three)
    for columns in ((three, two, two, two), (two, two, two, three), (three, np.zeros((3, 1)), three, three)):
        with pytest.raises(ValueError, match=r"same n|all of them Ragged"):
            Rows(*columns)
    with pytest.raises(ValueError, match="from 0 to the 6 values"):
        Ragged(np.arange(6), np.array([0, 3]))
