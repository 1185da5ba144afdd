"""What a session refuses, before it has changed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sleepmodel import PAD, Session
from tests.sleepmodel.conftest import build_small

ROWS = 3


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), r"must be int64 \[3, T\]"),
        (torch.zeros(3, 3), r"must be int64 \[3, T\]"),
        (torch.full((3, 2), 5), r"tokens\[0, 0\] = 5: must be below vocab_size = 5"),
        (torch.zeros(3, 65, dtype=torch.int64), "row length 65 .* at most max_positions = 64"),
    ],
)
def test_bad_tokens_are_refused_and_change_nothing(tokens: Tensor, message: str) -> None:
    session = Session(build_small(), ROWS)
    with pytest.raises(ValueError, match=message):
        session.read(tokens)
    assert session.filled.tolist() == [0] * ROWS


@pytest.mark.parametrize("rows", [-1, 2.5])
def test_a_number_of_rows_without_meaning_is_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match=rf"batch_size = {rows}: must be an integer of at least 0"):
        Session(build_small(), rows)


@pytest.mark.parametrize("copies", [0, -1, 1.5])
def test_a_number_of_copies_without_meaning_is_refused(copies: Any) -> None:
    with pytest.raises(ValueError, match=f"copies = {copies}: must be an integer of at least 1"):
        Session(build_small(), 2).fork(copies)


def test_generation_out_of_nothing_is_refused() -> None:
    session = Session(build_small(), 2)
    session.read(torch.tensor([[1], [PAD]]))
    with pytest.raises(ValueError, match="row 1 has read no token"):
        session.generate(1)


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (1, {"temperature": -1.0}, "temperature = -1"),
        (1, {"temperature": float("nan")}, "temperature = nan"),
        (1, {"top_p": 0.0}, r"top_p = 0\.0: .*in \(0, 1\]"),
        (-1, {}, "n = -1"),
        (1.5, {}, r"n = 1\.5: must be an integer"),
        (63, {}, "row length 65 .* at most max_positions = 64"),
    ],
)
def test_bad_generation_is_refused_before_a_word_is_said(n: Any, options: dict[str, float], message: str) -> None:
    session = Session(build_small(), 1)
    session.read(torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match=message):
        session.generate(n, **options)  # type: ignore[arg-type]
    assert session.filled.tolist() == [2]
