"""Algorithm 1: what a sleep computes, what crosses a border, and what is refused."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sleepmodel import ModelConfig, Session, SleepModel
from sleepmodel.accounting import flops, kv_bytes, n_params, state_bytes, training_flops
from sleepmodel.config.training import RECOMPUTE, Truncation
from sleepmodel.inputs import predicting_windows
from sleepmodel.mixers import gated_delta as fast_weights
from sleepmodel.mixers.base import Span
from sleepmodel.ops import gated_delta_cpu
from sleepmodel.reference import algorithm_1, embedded, initial_states, readout, run_block
from tests.sleepmodel.conftest import ARCHITECTURES, EVERY_MIXER, MakeModel, every_architecture, every_kind

HYBRID = ("attention", "gated_delta", "attention", "gated_delta")
EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64, another order of sums


def rows(seed: int, batch: int = 3, tokens: int = 21, answers: tuple[int, ...] = (19, 20)) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, list(answers)] = True
    return torch.randint(0, 5, (batch, tokens), generator=make), mask


def one_piece(model: SleepModel, tokens: Tensor) -> Tensor:
    """Logits [T, vocab] of an ordinary hybrid with sliding-window attention that knows nothing of windows or sleep."""
    h = embedded(model, tokens, 0)
    for number, state in enumerate(initial_states(model)):
        h = run_block(model, number, h, state, 0)
    return readout(model, h)


def gradients(model: SleepModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters(), strict=True)]


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


ANSWERS = {"prompts": (19, 20), "all": tuple(range(1, 21))}


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

    def sleep(h: Tensor, states: tuple[Any, ...], span: Span, passes: int) -> tuple[Any, ...]:
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
        return free.evict(states, span)

    def predict(h: Tensor, states: tuple[Any, ...], span: Span, passes: int) -> tuple[Tensor, tuple[Any, ...]]:
        _, out, woken = free.wake(h, states, span)
        return out, free.evict(woken, span) if passes == 1 else sleep(h, states, span, passes)

    free.sleep, free.predict = sleep, predict  # type: ignore[method-assign, assignment]
    for g, e in zip(got, gradients(free, free(tokens, mask).loss), strict=True):
        torch.testing.assert_close(g, e, **EXACT)
    model.truncation = Truncation(passes=3)
    whole = gradients(model, model(tokens, mask).loss)
    model.truncation = Truncation()
    for g, e in zip(whole, gradients(model, model(tokens, mask).loss), strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=0)


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
    model.sleep = lambda h, states, span, passes: model.initial_states(len(h))  # type: ignore[method-assign]
    torch.testing.assert_close(model(tokens, mask).logits, alone)


def test_a_loss_reaches_the_first_window_through_the_fast_weights(make_model: MakeModel) -> None:
    assert seen_gradients(make_model(), *rows(6), passes=2) == [True] * 4


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
        ("prompts", (18,), 'row 0: an answer is the first token of a window of 6 tokens.*sleep_on = "all"'),
        ("all", (0, 18), "row 0: an answer is the first token of the row, where nothing can predict it"),
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


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("loop", [None, (1, 2)])
@pytest.mark.parametrize(
    ("sleep_on", "answers"),
    [("prompts", (19, 20)), ("prompts", (3, 14, 15)), ("all", (5, 6, 20))],
)
@pytest.mark.parametrize(
    "fields",
    [
        *({"mixers": mixers} for mixers in (("attention", "gated_delta"), EVERY_MIXER, ("jet", "attention"))),
        *ARCHITECTURES.values(),
    ],
)
def test_flops_are_what_torch_counts(
    make_model: MakeModel,
    fields: dict[str, Any],
    loop: tuple[int, int] | None,
    eviction: str,
    sleep_on: str,
    answers: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the triangular solves, C x C by C x V at half a product's cost, and the readout of the answers."""
    model = make_model(loop=loop, eviction=eviction, sleep_on=sleep_on, dtype=torch.float32, **fields)
    tokens, mask = rows(0, batch=1, answers=answers)
    solves: list[int] = []

    def counted(rule: Callable[..., object]) -> Callable[..., object]:
        def run(*inputs: Tensor) -> object:
            v = inputs[-4]  # before the decay, beta and the state
            solves.append(v.numel() * v.shape[1])
            return rule(*inputs)

        return run

    for name in ("gated_delta_rule", "gated_delta_write"):
        monkeypatch.setattr(fast_weights, name, counted(getattr(fast_weights, name)))
    # of the attention kernels torch counts the plain one alone on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, mask, sleep_passes=3)
    readout = 2 * len(answers) * 16 * 5
    asked = predicting_windows(mask, 6)[0].tolist()
    assert counter.get_total_flops() == flops(model, 21, 3, asked) - sum(solves) + readout
    if answers == (19, 20):
        assert flops(model, 21, 3) == flops(model, 21, 3, asked)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("loop", [None, (1, 2), (0, 2)])
def test_training_flops_are_what_torch_counts(
    make_model: MakeModel, loop: tuple[int, int] | None, eviction: str
) -> None:
    """The backward goes once through a waking pass, for its loss and the passes that continue from it together."""
    fields = {"mixers": ("attention", "local_attention", "attention"), "loop": loop, "eviction": eviction}
    model = make_model(sleep_on="all", dtype=torch.float32, **fields)
    tokens, mask = rows(0, batch=1, answers=ANSWERS["all"])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, mask, sleep_passes=3).loss.backward()
    asked, readout = predicting_windows(mask, 6)[0].tolist(), 3 * 2 * 20 * 16 * 5
    assert counter.get_total_flops() == training_flops(model, 21, 3, asked) + readout


@pytest.mark.parametrize("mixers", [("attention", "gated_delta"), EVERY_MIXER])
def test_sizes_are_counted(make_model: MakeModel, mixers: tuple[str, ...]) -> None:
    model = make_model(mixers=mixers, dtype=torch.float32)
    fast = len(mixers) - mixers.count("attention")
    assert state_bytes(model, 3) == 3 * fast * 2 * 8 * 8 * 4
    assert kv_bytes(model, 3, 5) == 3 * 5 * mixers.count("attention") * 2 * 16 * 4
    assert n_params(model) == sum(p.numel() for p in model.parameters())


@every_architecture
def test_sizes_are_those_of_a_session(make_model: MakeModel, fields: dict[str, Any]) -> None:
    """The bytes of the states and caches that a session holds, and the weights that are saved."""
    model = make_model(dtype=torch.float32, **fields)
    session = Session(model, 3)
    session.read(torch.randint(0, 5, (3, 11)))  # a sleep, then 5 of 6 tokens
    held = {name: tensor for name, tensor in session.memory.tensors.items() if name.startswith("state.states")}
    caches = {name: tensor for name, tensor in held.items() if name.endswith((".k", ".v"))}
    fast = {name: tensor for name, tensor in held.items() if tensor.dim() == 4 and name not in caches}
    assert caches and kv_bytes(model, 3, 5) == sum(tensor.nbytes for tensor in caches.values())
    assert fast and state_bytes(model, 3) == sum(tensor.nbytes for tensor in fast.values())
    assert n_params(model) == sum(weight.numel() for weight in model.state_dict().values())


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
