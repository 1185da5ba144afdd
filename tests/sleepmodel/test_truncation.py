"""Truncated backpropagation: which windows and passes a loss reaches."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel import SleepModel
from sleepmodel.config.training import Truncation
from sleepmodel.mixers.base import Span
from sleepmodel.mixers.gated_delta import GatedDelta
from tests.sleepmodel.conftest import ANSWERS, ARCHITECTURES, EVERY_MIXER, EXACT, MakeModel, gradients, rows


def seen_gradients(
    model: SleepModel, tokens: Tensor, mask: Tensor, passes: int = 1, loss: Callable[[Tensor], Tensor] | None = None
) -> list[bool]:
    """Whether the loss has a gradient at the embedded tokens of each window. loss: of the logits; None: the model's."""
    vectors: list[Tensor] = []
    original = model.embedded

    def embedded(*arguments: Tensor) -> Tensor:
        vectors.append(original(*arguments).detach().requires_grad_())
        return vectors[-1]

    model.embedded = embedded  # type: ignore[method-assign, assignment]
    out = model(tokens, mask, passes)
    found = torch.autograd.grad(loss(out.logits) if loss else out.loss, vectors, allow_unused=True)
    model.embedded = original  # type: ignore[method-assign]
    return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in found]


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_a_loss_reaches_back_through_m_windows(make_model: MakeModel, eviction: str) -> None:
    model = make_model(eviction=eviction)
    tokens, mask = rows(6, tokens=27, answers=(26,))
    for windows, reached in [(None, [True] * 5), (1, [False] * 4 + [True]), (3, [False] * 2 + [True] * 3)]:
        model.truncation = Truncation(windows=windows)
        assert seen_gradients(model, tokens, mask) == reached
    # an answer on the way has its own M windows, and takes the later one's gradient no further than that one's M
    mask[:, 8] = True
    model.truncation = Truncation(windows=2)
    assert seen_gradients(model, tokens, mask) == [True, True, False, True, True]
    # windows in a row that answer: all of them reach as far as the first
    mask[:, 20] = True
    assert seen_gradients(model, tokens, mask) == [True, True, True, True, True]
    mask[:, 8] = False
    assert seen_gradients(model, tokens, mask) == [False, False, True, True, True]


@pytest.mark.parametrize(
    ("answers", "windows", "reached"),
    [
        (range(1, 30), 2, {0: [0], 1: [0, 1], 2: [2], 3: [2, 3], 4: [4]}),
        (range(1, 30), 5, {4: [0, 1, 2, 3, 4]}),
        (range(1, 30), 1, {i: [i] for i in range(5)}),
        (range(13, 30), 2, {2: [1, 2], 3: [3], 4: [3, 4]}),  # a prompt of two windows, the first beyond reach
        ((9, 24, 29), 2, {1: [0, 1], 3: [2, 3], 4: [4]}),  # 24 begins window 4 and is predicted in window 3
    ],
)
def test_windows_that_are_all_predicted_are_cut_into_pieces_of_m(
    make_model: MakeModel, answers: Iterable[int], windows: int, reached: dict[int, list[int]]
) -> None:
    """reached: the windows into which the loss of a window has a gradient."""
    model = make_model(sleep_on="all", sleep_passes=2)
    model.truncation = Truncation(windows=windows)
    tokens, mask = rows(6, tokens=30, answers=tuple(answers))
    predicted = (mask.nonzero()[:, 1] - 1) // 6
    for window, expected in reached.items():
        # a window's own loss, with the others' windows still predicted
        def loss(logits: Tensor, window: int = window) -> Tensor:
            return F.cross_entropy(logits[predicted == window], tokens[mask][predicted == window])

        seen = seen_gradients(model, tokens, mask, 2, loss)
        assert [i for i in range(5) if seen[i]] == expected


def test_windows_are_cut_row_by_row(make_model: MakeModel) -> None:
    """A row's truncated gradient is that of the row alone, whatever the others' layout."""
    model = make_model()
    model.truncation = Truncation(windows=2)
    tokens, mask = rows(6, batch=2, tokens=27, answers=())
    mask[0, 26] = mask[1, 14] = True
    both = gradients(model, model(tokens, mask).loss * 2)
    alone = [gradients(model, model(tokens[i : i + 1], mask[i : i + 1]).loss) for i in range(2)]
    for got, *parts in zip(both, *alone, strict=True):
        torch.testing.assert_close(got, sum(parts), **EXACT)


def given(before: Any, after: Any) -> Any:
    """By hand: the state after a pass without a gradient, with that of the fast weights before it."""
    if hasattr(after, "S"):
        return after._replace(S=given(before.S, after.S))
    return after + before - before.detach() if isinstance(after, Tensor) else after


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(
    ("fields", "loop"),
    [
        ({"mixers": ("attention", "gated_delta")}, None),
        ({"mixers": ("delta", "attention", "jet", "linear")}, (1, 3)),
        ({"mixers": EVERY_MIXER}, (0, 4)),
        *((fields, None) for fields in ARCHITECTURES.values()),
        (ARCHITECTURES["ouro"], (1, 3)),
    ],
)
@pytest.mark.parametrize(("sleep_on", "kept"), [("prompts", 1), ("all", 2)])
def test_the_last_k_passes_are_differentiated(
    make_model: MakeModel, fields: dict[str, Any], loop: tuple[int, int] | None, sleep_on: str, kept: int, eviction: str
) -> None:
    """Vectors that enter the last K passes are constants, and fast weights pass unchanged by the others. The loss of a
    waking pass has its whole gradient."""
    fields = {**fields, "loop": loop, "eviction": eviction, "sleep_passes": 3, "sleep_on": sleep_on}
    model, free = make_model(**fields), make_model(**fields)
    tokens, mask = rows(6, tokens=21, answers=ANSWERS[sleep_on])
    model.truncation = Truncation(passes=kept)
    got = gradients(model, model(tokens, mask).loss)

    def sleep(h: Tensor, states: tuple[Any, ...], span: Span, passes: int, labels: None) -> tuple[Any, Tensor]:
        (start, end), stack, learning = free.loop, free.stack, torch.is_grad_enabled()
        for i, blocks in enumerate((range(end), range(start, end), range(start, len(stack)))):
            after = [stack[j].mixer.begin_pass(state) if i and j in blocks else state for j, state in enumerate(states)]
            with torch.set_grad_enabled(learning and i > 2 - kept):
                entering = list(after)
                h = free.norm(h) if i and free.config.loop_norm else h
                for j in blocks:
                    h, after[j] = stack[j](h, after[j], span)
            if i <= 2 - kept:
                after = [given(entering[j], after[j]) if j in blocks else after[j] for j in range(len(stack))]
            states = tuple(after)
        return free.evict(states, span), torch.zeros(())

    def predict(h: Tensor, states: tuple[Any, ...], span: Span, passes: int, labels: None) -> tuple[Tensor, Any, Any]:
        _, out, woken = free.wake(h, states, span)
        if passes == 1:
            return out, free.evict(woken, span), torch.zeros(())
        return out, *sleep(h, states, span, passes, labels)

    free.sleep, free.predict = sleep, predict  # type: ignore[method-assign, assignment]
    for g, e in zip(got, gradients(free, free(tokens, mask).loss), strict=True):
        torch.testing.assert_close(g, e, **EXACT)
    model.truncation = Truncation(passes=3)
    whole = gradients(model, model(tokens, mask).loss)
    model.truncation = Truncation()
    for g, e in zip(whole, gradients(model, model(tokens, mask).loss), strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=0)


class Opaque(GatedDelta):
    """Of somebody else, who knows nothing of gradients that go straight through passes."""

    def straight_through(self, before: Any, after: Any) -> Any:
        return after


def test_a_block_that_only_differentiated_passes_run_has_its_whole_gradient(make_model: MakeModel) -> None:
    """It stands behind the loop: the last pass, its only one, reads the state from before the sleep."""
    model = make_model(mixers=("attention", f"{__name__}:Opaque"), loop=(0, 1))
    model.truncation = Truncation(passes=1)
    span, (cache, S) = Span.whole(6, torch.device("cpu")), model.initial_states(2)
    S.requires_grad_()
    (_, after), _ = model.sleep(torch.randn(2, 6, 16).double(), (cache, S), span, 3)
    assert torch.autograd.grad(after.square().sum(), S)[0].abs().sum() > 0


def test_a_loss_reaches_the_first_window_through_the_fast_weights(make_model: MakeModel) -> None:
    assert seen_gradients(make_model(), *rows(6), passes=2) == [True] * 4
