"""Trees of tensors."""

from __future__ import annotations

import pytest
import torch

from sleepmodel.mixers.base import Span
from sleepmodel.states import map_tensors, merge_rows, named_tensors, select_rows


def test_none_has_no_tensors_and_stays() -> None:
    span = Span(torch.tensor([[0, 1], [2, 3]]), None, torch.tensor([[5], [6]]))
    assert [name for name, _ in named_tensors(span, "span")] == ["span.place", "span.start"]
    chosen: Span = select_rows(span, torch.tensor([1]))
    assert (chosen.place.tolist(), chosen.real) == ([[2, 3]], None)
    merged: Span = merge_rows(span, chosen._replace(place=chosen.place + 7), torch.tensor([0]))
    assert (merged.place.tolist(), merged.real) == ([[9, 10], [2, 3]], None)


def test_a_number_is_no_state() -> None:
    """It would be chosen, merged or kept in a memory by no row."""
    span = Span(torch.zeros(1, 2), None, 3)
    with pytest.raises(TypeError):
        map_tensors(torch.clone, span)
    with pytest.raises(TypeError):
        list(named_tensors(span, "span"))
