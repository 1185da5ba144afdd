"""Pads, rows of many lengths, rows that answer in different windows: none depends on its neighbours or its pads."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sleepmodel import PAD, SleepModel
from sleepmodel.config.model import SLEEP_ON
from sleepmodel.config.training import Truncation
from sleepmodel.reference import algorithm_1
from tests.sleepmodel.conftest import EVERY_MIXER, EXACT, build_small, every_kind

WINDOW = 6
CONV = st.sampled_from([None, 4])


@st.composite
def batches(draw: st.DrawFn, sleep_on: str = "prompts") -> tuple[list[Tensor], list[list[int]], list[int]]:
    """Rows, the places of each one's answers, and how many tokens stand in its first window."""
    rows, answers, firsts = [], [], []
    seed = draw(st.integers(0, 2**31))
    make = torch.Generator().manual_seed(seed)
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(2, 20))
        first = draw(st.integers(1, WINDOW))
        allowed = [t for t in range(1, length) if sleep_on == "all" or t < first or (t - first) % WINDOW]
        if not allowed:
            length, first = 2, 2
            allowed = [1]
        rows.append(torch.randint(0, 5, (length,), generator=make))
        some = st.sets(st.sampled_from(allowed), min_size=1, max_size=3)
        answers.append(sorted(draw(st.just(set(allowed)) | some if sleep_on == "all" else some)))
        firsts.append(first)
    return rows, answers, firsts


def padded(rows: list[Tensor], answers: list[list[int]], firsts: list[int]) -> tuple[Tensor, Tensor]:
    """A batch in which each row's first window ends where the batch's does."""
    lefts = [WINDOW - first for first in firsts]
    width = max(left + len(row) for left, row in zip(lefts, rows, strict=True))
    tokens = torch.full((len(rows), width), PAD)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, asked, left) in enumerate(zip(rows, answers, lefts, strict=True)):
        tokens[i, left : left + len(row)] = row
        mask[i, [left + t for t in asked]] = True
    return tokens, mask


def by_row(logits: Tensor, mask: Tensor) -> list[Tensor]:
    return list(logits.split(mask.sum(1).tolist()))


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("sleep_on", SLEEP_ON)
@every_kind
@settings(max_examples=4)
@given(data=st.data(), passes=st.integers(1, 3))
def test_each_row_of_a_mixed_batch_is_algorithm_1(
    fields: dict[str, Any], sleep_on: str, eviction: str, data: st.DataObject, passes: int
) -> None:
    model = build_small(eviction=eviction, sleep_on=sleep_on, **fields)
    batch = data.draw(batches(sleep_on))
    tokens, mask = padded(*batch)
    found = by_row(model(tokens, mask, passes).logits, mask)
    for got, row, asked, first in zip(found, *batch, strict=True):
        answers = torch.zeros(len(row), dtype=torch.bool)
        answers[asked] = True
        torch.testing.assert_close(got, algorithm_1(model, row, answers, passes, first), **EXACT)


def loss_gradient(model: SleepModel, tokens: Tensor, mask: Tensor) -> list[Tensor]:
    loss = F.cross_entropy(model(tokens, mask).logits, tokens[mask], reduction="sum")
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("sleep_on", SLEEP_ON)
@settings(max_examples=5)
@given(data=st.data(), reach=st.sampled_from([None, 1, 2]), conv=CONV)
def test_the_gradient_of_a_mixed_batch_is_the_sum_of_its_rows(
    sleep_on: str, eviction: str, data: st.DataObject, reach: int | None, conv: int | None
) -> None:
    model = build_small(eviction=eviction, mixers=EVERY_MIXER, sleep_passes=2, sleep_on=sleep_on, conv=conv)
    model.truncation = Truncation(passes=reach, windows=reach)
    batch = data.draw(batches(sleep_on))
    together = loss_gradient(model, *padded(*batch))
    alone = [loss_gradient(model, *padded([r], [a], [f])) for r, a, f in zip(*batch, strict=True)]
    for got, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(got, sum(parts), rtol=1e-8, atol=1e-9)


@settings(max_examples=10)
@given(batch=batches("all"), passes=st.integers(1, 2), conv=CONV)
def test_no_gradient_goes_from_a_document_to_another(
    batch: tuple[list[Tensor], list[list[int]], list[int]], passes: int, conv: int | None
) -> None:
    """Exact zeros: a row's loss has no gradient at the embedded tokens of another row, nor at its pads."""
    model = build_small(eviction="sliding", mixers=EVERY_MIXER, sleep_on="all", conv=conv)
    tokens, mask = padded(*batch)
    original, vectors = model.embedded, []

    def embedded(*arguments: Any) -> Tensor:
        vectors.append(original(*arguments).detach().requires_grad_())
        return vectors[-1]

    model.embedded = embedded  # type: ignore[method-assign]
    losses = by_row(F.cross_entropy(model(tokens, mask, passes).logits, tokens[mask], reduction="none"), mask)
    for row, loss in enumerate(losses):
        found = torch.autograd.grad(loss.sum(), vectors, retain_graph=True, allow_unused=True, materialize_grads=True)
        reached = torch.cat(found, 1).abs().sum(2) > 0
        reached = F.pad(reached, (0, tokens.shape[1] - reached.shape[1]))  # windows after all predictions are not read
        assert reached[row].any() and not (reached & (tokens < 0)).any()
        assert not reached[torch.arange(len(tokens)) != row].any()


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), conv=CONV)
def test_a_neighbour_changes_no_bit(eviction: str, seed: int, conv: int | None) -> None:
    """In one shape the sums have one order: another neighbour, or one made of pads alone, gives the same bits."""
    model = build_small(eviction=eviction, mixers=EVERY_MIXER, sleep_passes=2, dtype=torch.float32, conv=conv)
    make = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 5, (3, 17), generator=make)
    tokens[0, :3] = PAD
    mask = torch.zeros(3, 17, dtype=torch.bool)
    mask[:, [14, 16]] = True
    base = model(tokens, mask).logits[:2]
    other = tokens.clone()
    other[1] = torch.randint(0, 5, (17,), generator=make)
    other[2, :5] = PAD
    assert torch.equal(model(other, mask).logits[:2], base)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31), right=st.integers(1, 15), conv=CONV)
def test_pads_on_the_right_change_nothing(seed: int, right: int, conv: int | None) -> None:
    model = build_small(mixers=EVERY_MIXER, eviction="sliding", sleep_passes=2, conv=conv)
    tokens = torch.randint(0, 5, (2, 15), generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(2, 15, dtype=torch.bool)
    mask[:, 14] = True
    got = model(F.pad(tokens, (0, right), value=PAD), F.pad(mask, (0, right))).logits
    torch.testing.assert_close(got, model(tokens, mask).logits, **EXACT)


@pytest.mark.parametrize(
    ("pads", "answer", "message"),
    [
        ([5], 14, "row 1: has pads between its tokens"),
        (list(range(13)), 13, r"loss_mask\[1, 13\]: an answer must not be at the first token of a row"),
        ([14], 14, r"loss_mask\[1, 14\]: an answer must not be at a pad"),
    ],
)
def test_pads_without_meaning_are_refused(pads: list[int], answer: int, message: str) -> None:
    tokens, mask = torch.zeros(2, 15, dtype=torch.int64), torch.zeros(2, 15, dtype=torch.bool)
    tokens[1, pads] = PAD
    mask[:, answer] = True
    with pytest.raises(ValueError, match=message):
        build_small()(tokens, mask)
