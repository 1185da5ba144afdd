"""The moonshot's harness: its labels are the automaton's, one pass is the model's own, and no answer sees itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.evidence.iterated import Recipe, Rows, _carried, read, unread
from datagen.rule110 import QUERY
from sleepmodel import SleepModel
from sleepmodel.mixers.base import Span

SMALL = Recipe(cells=6, states=2, batch=4, steps=100)
NEXT = np.array([0, 1, 1, 1, 0, 1, 1, 0])  # rule 110 by its neighbourhood, left * 4 + centre * 2 + right


def seeded(recipe: Recipe) -> SleepModel:
    """A model whose blocks are not the identity that they begin as."""
    torch.manual_seed(0)
    model = SleepModel(recipe.model).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return model


@given(cells=st.integers(3, 20), states=st.integers(1, 3), t=st.integers(1, 6), seed=st.integers(0, 99))
def test_in_the_moving_frame_a_cell_is_made_of_what_stands_at_its_place_and_the_two_before(
    cells: int, states: int, t: int, seed: int
) -> None:
    before, after = Rows(replace(SMALL, cells=cells, states=states), "train", seed).draw(5, t)[-2:]
    left, centre = before.roll(2, -1), before.roll(1, -1)
    assert np.array_equal(after, NEXT[left * 4 + centre * 2 + before])


def test_no_row_is_drawn_twice() -> None:
    rows = Rows(replace(SMALL, cells=64), "train", 3)
    drawn = torch.cat([rows.draw(3000, 0)[0].flatten(1) for _ in range(5)])
    assert len(torch.unique(drawn, dim=0)) == len(drawn)


def test_one_pass_is_the_models_own_algorithm() -> None:
    """Float64, so that 1e-9 leaves no room for another order of states, places or passes."""
    recipe = replace(SMALL, iterated=False, traced=False, reads_first=False, states=1)
    model, states = seeded(recipe), Rows(recipe, "train", 0).draw(4, 2)
    tokens = torch.cat((states[0][:, 0], torch.full((4, 1), QUERY), states[2][:, 0, :-1]), 1)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, recipe.cells + 1 :] = True
    mine = read(model, recipe, states[0], states[2], 1).answers[:, 0, :-1]
    torch.testing.assert_close(mine.flatten(0, 1), model(tokens, mask).logits, rtol=1e-9, atol=1e-9)


def test_a_pass_hands_on_the_tokens_that_it_finds_likeliest_and_the_gradient_of_their_mixture() -> None:
    model, h = seeded(SMALL), torch.randn(4, 6, 64, dtype=torch.float64, requires_grad=True)
    tokens, span = model.readout(h)[..., :QUERY].argmax(-1), Span.whole(6, h.device, 6)
    begin = model.embedded(tokens, span)
    carried = _carried(model, SMALL, h, begin - model.embed(tokens))
    torch.testing.assert_close(carried, begin, rtol=1e-9, atol=1e-9)
    weights = torch.randn_like(carried)
    mixture = torch.softmax(model.readout(h)[..., :QUERY], -1) @ model.embed.weight[:QUERY]
    gradients = [torch.autograd.grad((each * weights).sum(), h)[0] for each in (carried, mixture)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_no_answer_sees_itself_or_what_follows() -> None:
    model, rows = seeded(SMALL), Rows(SMALL, "train", 0)
    states, answers = rows.draw(4, 0)[0], rows.draw(4, 0)[0]
    other = answers.clone()
    other[..., 3:] = 1 - other[..., 3:]
    one, two = (read(model, SMALL, states, asked, 3).answers[..., :4, :] for asked in (answers, other))
    assert torch.equal(one, two)


@pytest.mark.parametrize("t", [0, 3])
def test_the_floor_of_cells_goes_by_the_answers_before_alone(t: int) -> None:
    """The same rows, looked up by the tuple of the answers before each cell."""
    recipe = replace(SMALL, cells=20, states=1, batch=64, steps=100)
    known, asked = (Rows(recipe, split, 5).draw(6400, t)[t][:, 0].tolist() for split in ("train", "test"))
    met = Counter(tuple(row[: p + 1]) for row in known for p in range(recipe.cells))
    ones = [sum(row[p] for row in known) > len(known) / 2 for p in range(recipe.cells)]
    right = 0
    for row in asked:
        for p, cell in enumerate(row):
            zero, one = met[*row[:p], 0], met[*row[:p], 1]
            right += cell == (ones[p] if zero == one else one > zero)
    assert unread(recipe, t, 5) == pytest.approx(right / (len(asked) * recipe.cells), abs=1e-12)
    if not t:
        assert unread(recipe, t, 5) == pytest.approx(0.5, abs=0.01)  # random cells; seven standard errors
