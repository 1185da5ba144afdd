"""Algorithm 1: what a sleep computes, what crosses a border, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel import ModelConfig, SleepModel
from sleepmodel.config.training import RECOMPUTE, Truncation
from sleepmodel.mixers.base import Span
from sleepmodel.ops import gated_delta_cpu
from sleepmodel.reference import algorithm_1, embedded, initial_states, readout, run_block
from tests.sleepmodel.conftest import (
    ANSWERS,
    ARCHITECTURES,
    EVERY_MIXER,
    EXACT,
    MakeModel,
    every_architecture,
    every_kind,
    gradients,
    rows,
)

HYBRID = ("attention", "gated_delta", "attention", "gated_delta")


def one_piece(model: SleepModel, tokens: Tensor) -> Tensor:
    """Logits [T, vocab] of an ordinary hybrid with sliding-window attention that knows nothing of windows or sleep."""
    h = embedded(model, tokens, 0)
    for number, state in enumerate(initial_states(model)):
        h = run_block(model, number, h, state, 0)
    return readout(model, h)


def assert_same_training(model: SleepModel, tokens: Tensor, mask: Tensor, expected: Tensor) -> None:
    """Logits, loss and every gradient are those of the reference's logits."""
    out = model(tokens, mask)
    loss = F.cross_entropy(expected, tokens[mask])
    torch.testing.assert_close(out.logits, expected, **EXACT)
    torch.testing.assert_close(out.loss, loss, **EXACT)
    for got, want in zip(gradients(model, out.loss), gradients(model, loss), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(
    "mixers", [("attention", "gated_delta"), ("gated_delta",), (*HYBRID, "attention"), EVERY_MIXER]
)
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_n_passes_are_algorithm_1(make_model: MakeModel, mixers: tuple[str, ...], passes: int, eviction: str) -> None:
    model = make_model(mixers=mixers, sleep_passes=passes, eviction=eviction)
    tokens, mask = rows(passes, batch=2)
    expected = [algorithm_1(model, row, asks, passes) for row, asks in zip(tokens, mask, strict=True)]
    assert_same_training(model, tokens, mask, torch.cat(expected))


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(("loop", "passes"), [(None, 1), (None, 3), ((1, 2), 2), ((1, 3), 3)])
@every_architecture
def test_a_pretrained_architecture_is_algorithm_1(
    make_model: MakeModel, fields: dict[str, Any], loop: tuple[int, int] | None, passes: int, eviction: str
) -> None:
    model = make_model(loop=loop, eviction=eviction, sleep_passes=passes, **fields)
    tokens, mask = rows(passes, batch=1)
    assert_same_training(model, tokens, mask, algorithm_1(model, tokens[0], mask[0], passes))


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(("loop", "passes"), [(None, 3), ((1, 2), 2), ((1, 3), 3)])
@every_kind
def test_a_window_is_predicted_awake_and_then_slept_on(
    make_model: MakeModel, fields: dict[str, Any], loop: tuple[int, int] | None, passes: int, eviction: str
) -> None:
    """The loss of a language model: every token but the first is an answer, those that begin a window too."""
    model = make_model(loop=loop, eviction=eviction, sleep_passes=passes, sleep_on="all", **fields)
    tokens, mask = rows(passes, batch=1, tokens=15, answers=tuple(range(1, 15)))
    assert_same_training(model, tokens, mask, algorithm_1(model, tokens[0], mask[0], passes))


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("loop", [(0, 1), (1, 3), (2, 4), (3, 5), (0, 5)])
def test_a_loop_repeats_its_blocks_alone(make_model: MakeModel, loop: tuple[int, int], eviction: str) -> None:
    """Also where the blocks behind the loop write, where none of the loop's do, and where the last writes nothing."""
    model = make_model(mixers=(*HYBRID, "attention"), loop=loop, eviction=eviction)
    tokens, mask = rows(sum(loop), batch=2, tokens=15, answers=(13, 14))
    out = model(tokens, mask, sleep_passes=3)
    expected = [algorithm_1(model, row, asks, 3) for row, asks in zip(tokens, mask, strict=True)]
    torch.testing.assert_close(out.logits, torch.cat(expected), **EXACT)


@pytest.mark.parametrize(
    "fields", [{"mixers": ("attention", "gated_delta")}, {"mixers": EVERY_MIXER}, *ARCHITECTURES.values()]
)
def test_one_pass_under_sliding_eviction_is_an_ordinary_hybrid_in_one_piece(
    make_model: MakeModel, fields: dict[str, Any]
) -> None:
    model = make_model(eviction="sliding", **fields)
    tokens, mask = rows(11, batch=2, answers=(19, 20))
    expected = torch.cat([one_piece(model, row)[18:20] for row in tokens])
    assert_same_training(model, tokens, mask, expected)


def test_nothing_is_computed_that_no_answer_depends_on(make_model: MakeModel) -> None:
    """Which blocks run in full and which write alone, in a sleep of three passes and a window that answers."""

    def run(sleep_on: str, answers: tuple[int, ...]) -> str:
        model = make_model(mixers=(*HYBRID, "attention"), loop=(1, 3), sleep_passes=3, sleep_on=sleep_on)
        done: list[str] = []
        for number, block in enumerate(model.stack):
            for kind in ("forward", "write"):
                setattr(block, kind, noted(getattr(block, kind), f"{kind[0]}{number}", done))
        model(*rows(0, tokens=20, answers=answers))
        return " ".join(done)

    sleep, wake, refine = "f0 f1 f2 f1 f2 f1 f2 w3", "f0 f1 f2 f3 f4", "f1 f2 f1 f2 w3"
    assert run("prompts", (8,)) == run("all", (8,)) == f"{sleep} {wake}"
    assert run("prompts", (3, 8)) == f"{wake} {wake}"
    assert run("all", (3, 8)) == f"{wake} {refine} {wake}"
    assert run("all", (6,)) == wake  # the first token of a window is predicted in the one before
    assert run("all", (6, 13)) == f"{wake} {refine} {sleep} {wake}"


def noted(function: Callable[..., object], name: str, done: list[str]) -> Callable[..., object]:
    def run(*arguments: object) -> object:
        done.append(name)
        return function(*arguments)

    return run


def test_answers_in_several_windows_come_in_row_major_order(make_model: MakeModel) -> None:
    model = make_model(sleep_passes=2)
    tokens, mask = rows(5, answers=(7, 8, 14, 20))
    expected = [algorithm_1(model, row, asks, 2) for row, asks in zip(tokens, mask, strict=True)]
    torch.testing.assert_close(model(tokens, mask).logits, torch.cat(expected), **EXACT)


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
@pytest.mark.parametrize(
    ("sleep_on", "truncation"),
    [
        ("prompts", Truncation()),
        ("prompts", Truncation(passes=2, windows=2)),
        ("all", Truncation(passes=2, windows=2)),
    ],
)
@pytest.mark.parametrize("fields", [{"mixers": HYBRID}, ARCHITECTURES["ouro"], ARCHITECTURES["jet_nemotron"]])
def test_recomputing_changes_nothing(
    make_model: MakeModel, fields: dict[str, Any], sleep_on: str, recompute: str, truncation: Truncation
) -> None:
    model = make_model(sleep_passes=3, eviction="sliding", sleep_on=sleep_on, **fields)
    model.truncation = truncation
    tokens, mask = rows(1, answers=ANSWERS[sleep_on])
    plain = gradients(model, model(tokens, mask).loss)
    model.recompute = recompute
    for got, expected in zip(gradients(model, model(tokens, mask).loss), plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
@pytest.mark.parametrize("sleep_on", ANSWERS)
def test_recomputing_keeps_less(make_model: MakeModel, sleep_on: str, recompute: str) -> None:
    def kept(recompute: str) -> int:
        model.recompute, count = recompute, 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            count += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(tokens, mask)
        return count

    model = make_model(mixers=HYBRID, sleep_passes=4, sleep_on=sleep_on)
    tokens, mask = rows(1, answers=ANSWERS[sleep_on])
    assert kept(recompute) < kept("nothing") / 2


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("mixer", ["gated_delta", "delta", "jet"])
def test_a_backward_within_autocast_is_that_outside(
    make_model: MakeModel, mixer: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule's own gradients are written by hand; those of the other layers, torch's, may come in half precision."""
    if not compiled:
        monkeypatch.setattr(gated_delta_cpu, "available", lambda: False)

    def found(inside: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(tokens, mask).loss
            if inside:
                return gradients(model, loss)
        return gradients(model, loss)

    model = make_model(mixers=("attention", mixer), sleep_passes=2, dtype=torch.float32)
    tokens, mask = rows(3)
    for inside, outside in zip(found(True), found(False), strict=True):
        torch.testing.assert_close(inside, outside, rtol=0, atol=0)


def test_attention_alone_knows_nothing_of_an_evicted_window(make_model: MakeModel) -> None:
    model = make_model(mixers=("attention", "attention"), sleep_passes=2)
    tokens, mask = rows(2)
    other = tokens.clone()
    other[:, :18] = rows(3)[0][:, :18]
    assert torch.equal(model(tokens, mask).logits, model(other, mask).logits)


@pytest.mark.parametrize("passes", [1, 2])
def test_fast_weights_carry_every_window_to_the_answer(make_model: MakeModel, passes: int) -> None:
    model = make_model(sleep_passes=passes)
    tokens, mask = rows(2)
    base = model(tokens, mask).logits
    for position in (0, 5, 6, 17):
        other = tokens.clone()
        other[:, position] = (other[:, position] + 1) % 5
        assert not torch.allclose(model(other, mask).logits, base)


def test_only_the_fast_weights_cross_a_border(make_model: MakeModel) -> None:
    """With the states emptied at the border, the answers are those of a row that never had the context."""
    model = make_model(sleep_passes=2, max_positions=None)
    tokens, mask = rows(4)
    alone = model(tokens[:, 18:], mask[:, 18:]).logits
    nothing = torch.zeros(())
    model.sleep = lambda h, states, span, passes, labels: (model.initial_states(len(h)), nothing)  # type: ignore
    torch.testing.assert_close(model(tokens, mask).logits, alone)


def test_rows_do_not_see_each_other(make_model: MakeModel) -> None:
    model = make_model(sleep_passes=2)
    tokens, mask = rows(7, batch=4)
    together = model(tokens, mask).logits.view(4, 2, -1)
    for row in range(4):
        alone = model(tokens[row : row + 1], mask[row : row + 1]).logits
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sleep_on", "answers", "message"),
    [
        (
            "prompts",
            (18,),
            r'loss_mask\[0, 18\]: an answer must not be at the first token of a window of 6 tokens.*sleep_on = "all"',
        ),
        (
            "all",
            (0, 18),
            r"loss_mask\[0, 0\]: an answer must not be at the first token of a row, which nothing can predict",
        ),
        ("prompts", (), "at least one answer"),
    ],
)
def test_a_batch_without_meaning_is_refused(
    make_model: MakeModel, sleep_on: str, answers: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(sleep_on=sleep_on)(*rows(0, answers=answers))


@pytest.mark.parametrize("bad", [5, 7])
def test_a_token_outside_the_vocabulary_is_refused(make_model: MakeModel, bad: int) -> None:
    tokens, mask = rows(0)
    tokens[1, 3] = bad
    with pytest.raises(ValueError, match=rf"tokens\[1, 3\] = {bad}: must be below vocab_size = 5"):
        make_model()(tokens, mask)


def test_a_row_beyond_the_positions_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="row length 21: must be at most max_positions = 20"):
        make_model(max_positions=20)(*rows(0))


def test_eta_scales_the_write_strength() -> None:
    """beta = eta * sigmoid(.): at a zero projection of beta the strength is eta / 2."""
    seen = []
    for eta in (0.5, 2.0):
        torch.manual_seed(0)
        model = SleepModel(ModelConfig(vocab_size=5, d_model=16, n_heads=2, window=6, fast_weight_lr=eta, key_dim=8))
        mixer = model.blocks[1].mixer
        torch.nn.init.zeros_(mixer.beta.weight)
        x = torch.randn(1, 1, 16)
        seen.append(mixer.write(x, mixer.initial_state(1), Span.whole(1, x.device)))
    torch.testing.assert_close(seen[1], 4 * seen[0])
