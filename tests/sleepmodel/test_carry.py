"""What a pass hands to the next, and losses on the readout of each pass."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sleepmodel import Memory, ModelConfig, Session, SleepModel
from sleepmodel.config.training import RECOMPUTE, Truncation
from sleepmodel.mixers.base import Span
from sleepmodel.reference import read_row
from tests.sleepmodel.conftest import (
    ANSWERS,
    ARCHITECTURES,
    EVERY_MIXER,
    EXACT,
    MakeModel,
    build_small,
    gradients,
    rows,
)
from tests.sleepmodel.test_model import noted
from tests.sleepmodel.test_padding import WINDOW, batches, padded
from tests.sleepmodel.test_session import LENGTH, ROWS, read_in_pieces, tokens_of

MIXERS = ("attention", "gated_delta", "attention")
HANDED: dict[str, dict[str, Any]] = {
    "normalized": {"carry": "normalized"},
    "token": {"carry": "token"},
    "mixture": {"carry": "mixture", "max_positions": None},
    "hidden, reads first": {"reads_first": True},
    "token, reads first": {"carry": "token", "reads_first": True},
    "mixture, reads first": {"carry": "mixture", "reads_first": True, "tied": True},
    "token, marked": {"carry": "token", "reads_first": True, "pass_embed": True},
    "hidden, marked": {"reads_first": True, "pass_embed": True},
}
every_hand = pytest.mark.parametrize("fields", HANDED.values(), ids=HANDED)
every_eviction = pytest.mark.parametrize("eviction", ["hard", "sliding"])
each_way = pytest.mark.parametrize(("sleep_on", "eviction"), [("prompts", "hard"), ("all", "sliding")])


def traces_of(tokens: Tensor, count: int, seed: int = 0) -> Tensor:
    """Random labels, about a third of them missing."""
    return torch.randint(-2, 5, (len(tokens), count, tokens.shape[1]), generator=torch.Generator().manual_seed(seed))


def reference_losses(
    model: SleepModel, row: Tensor, answers: Tensor, labels: Tensor, passes: int, first: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one row, the sums of the answers' and of the labels' cross-entropies, and the cross-entropy of each label.
    labels: [P, T]."""
    logits, thoughts = read_row(model, row, answers, passes, first)
    skipped = int(model.config.reads_first)
    thoughts = thoughts[skipped : skipped + len(labels)]
    known = (labels >= 0) & ~thoughts.detach().isnan().any(-1)
    each = F.cross_entropy(thoughts[known], labels[known], reduction="none")
    return F.cross_entropy(logits, row[answers], reduction="sum"), each.sum(), each


def assert_same_gradients(model: SleepModel, got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, **EXACT)
    for g, e in zip(gradients(model, got), gradients(model, expected), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-7, atol=1e-9)


@each_way
@pytest.mark.parametrize("loop", [None, (0, 2)])
@every_hand
def test_passes_and_their_losses_are_algorithm_1(
    make_model: MakeModel, fields: dict[str, Any], loop: tuple[int, int] | None, sleep_on: str, eviction: str
) -> None:
    model = make_model(mixers=MIXERS, loop=loop, sleep_on=sleep_on, eviction=eviction, **fields)
    tokens, mask = rows(1, batch=1, answers=ANSWERS[sleep_on])
    traces = traces_of(tokens, 3 - model.config.reads_first)
    out = model(tokens, mask, 3, traces)
    answers, labels, each = reference_losses(model, tokens[0], mask[0], traces[0], 3)
    torch.testing.assert_close(out.trace_loss, each.mean(), **EXACT)
    assert_same_gradients(model, out.loss + 0.7 * out.trace_loss, answers / mask.sum() + 0.7 * labels / len(each))


@every_eviction
@pytest.mark.parametrize(
    "fields",
    [
        {"mixers": (*MIXERS, "jet"), "loop": (1, 3), "carry": "normalized"},
        {"mixers": EVERY_MIXER, "loop": (0, 4), "carry": "token"},
        {**ARCHITECTURES["ouro"], "loop": (1, 2)},
    ],
)
def test_readouts_are_of_the_end_of_the_loop(make_model: MakeModel, fields: dict[str, Any], eviction: str) -> None:
    """Also where the blocks behind it write."""
    model = make_model(eviction=eviction, **fields)
    tokens, mask = rows(1, batch=1)
    traces = traces_of(tokens, 3)
    out = model(tokens, mask, 3, traces)
    answers, labels, each = reference_losses(model, tokens[0], mask[0], traces[0], 3)
    assert_same_gradients(model, out.loss + out.trace_loss, answers / mask.sum() + labels / len(each))


@each_way
@every_hand
@settings(max_examples=3)
@given(data=st.data(), passes=st.integers(1, 4))
def test_a_mixed_batch_has_the_losses_of_its_rows(
    fields: dict[str, Any], sleep_on: str, eviction: str, data: st.DataObject, passes: int
) -> None:
    """Rows asleep and awake at once, pads on both sides, fewer traces than passes, and labels that do not count: at
    pads, in windows that no answer follows, and in windows that are read once."""
    model = build_small(mixers=("attention", "gated_delta"), eviction=eviction, sleep_on=sleep_on, **fields)
    batch = data.draw(batches(sleep_on))
    tokens, mask = padded(*batch)
    traces = traces_of(tokens, data.draw(st.integers(0, passes - model.config.reads_first), "traces"))
    out = model(tokens, mask, passes, traces)
    answers, labels, count = torch.zeros(()), torch.zeros(()), 0
    for i, (row, asked, first) in enumerate(zip(*batch, strict=True)):
        wanted = torch.zeros(len(row), dtype=torch.bool)
        wanted[asked] = True
        left = WINDOW - first
        of_row = traces[i, :, left : left + len(row)]
        parts = reference_losses(model, row, wanted, of_row, passes, first)
        answers, labels, count = answers + parts[0], labels + parts[1], count + len(parts[2])
    torch.testing.assert_close(out.trace_loss, (labels / max(count, 1)).double(), **EXACT)
    assert_same_gradients(model, out.loss + out.trace_loss, answers / mask.sum() + labels / max(count, 1))


@every_eviction
@every_hand
@settings(max_examples=3)
@given(data=st.data(), seed=st.integers(0, 1000), passes=st.integers(1, 3), loop=st.sampled_from([None, (0, 1)]))
def test_a_session_reads_as_training_does(
    fields: dict[str, Any],
    eviction: str,
    data: st.DataObject,
    seed: int,
    passes: int,
    loop: tuple[int, int] | None,
) -> None:
    """Every split into reads, every token but the first predicted, on from a memory of the middle of a window."""
    model = build_small(
        seed=seed, mixers=MIXERS, eviction=eviction, sleep_passes=passes, loop=loop, sleep_on="all", **fields
    )
    tokens, answers = tokens_of(seed), torch.ones(ROWS, LENGTH, dtype=torch.bool)
    answers[:, 0] = False
    session, half = Session(model, ROWS), data.draw(st.integers(1, LENGTH - 1), "read before the memory")
    got = [read_in_pieces(session, tokens[:, :half], data)]
    session = Session(model, memory=session.memory).fork()
    got.append(session.read(tokens[:, half:]))
    expected = model(tokens, answers).logits
    torch.testing.assert_close(torch.cat(got, 1)[:, :-1][answers[:, 1:]], expected, **EXACT)


@every_hand
def test_an_early_sleep_of_any_passes_is_a_row_padded_on_its_left(fields: dict[str, Any]) -> None:
    model = build_small(mixers=MIXERS, **fields)
    tokens, early = tokens_of(3, 1, 10), F.pad(tokens_of(3, 1, 10), (2, 0), value=-1)
    session = Session(model, 1)
    session.read(tokens[:, :4])
    session.sleep(5)
    mask = torch.zeros_like(early, dtype=torch.bool)
    mask[:, 7:] = True
    torch.testing.assert_close(session.read(tokens[:, 4:9]).flatten(0, 1), model(early, mask, 5).logits, **EXACT)


def test_a_memory_is_no_larger_for_what_its_model_hands_on() -> None:
    """Of the same tensors as that of any other model, so that those written before there was `carry` stay readable."""
    sizes = set()
    for fields in ({}, {"carry": "token"}, {"carry": "mixture", "reads_first": True}):
        session = Session(build_small(**fields), ROWS)
        session.read(tokens_of(0, length=9))
        memory: Memory = session.memory
        sizes.add(tuple((name, tensor.shape, tensor.dtype) for name, tensor in memory.tensors.items()))
    assert len(sizes) == 1


def test_a_token_is_handed_on_to_the_last_bit() -> None:
    """Also where its gradient is wanted: nothing of the mixture may accumulate over hundreds of passes."""
    model = build_small(dtype=torch.float32, carry="token")
    h, span = torch.randn(2, 6, 16), Span.whole(6, torch.device("cpu"), torch.tensor([[6], [9]]))
    expected = model.embedded(model.readout(h).argmax(-1), span)
    assert torch.equal(model.handed_on(h, span), expected)
    with torch.no_grad():
        assert torch.equal(model.handed_on(h, span), expected)


@pytest.mark.parametrize(
    ("fields", "every"), [*((fields, 2) for fields in HANDED.values()), ({"carry": "token"}, 1), ({}, 3)]
)
def test_a_sleep_is_cut_into_pieces_of_j_passes(make_model: MakeModel, fields: dict[str, Any], every: int) -> None:
    """Against passes by hand: vectors that cross a cut are constants, fast weights have the gradient of the windows
    before."""
    model = make_model(sleep_on="all", **fields)
    tokens, mask = rows(6, tokens=21, answers=ANSWERS["all"])
    first, passes = int(model.config.reads_first), 4
    traces, weights = traces_of(tokens, passes - first), model.initial_states(len(tokens))
    model.truncation = Truncation(every=every)
    out = model(tokens, mask, passes, traces)
    logits, losses = [], []
    for begin in range(0, 21, WINDOW):
        chunk, old = tokens[:, begin : begin + WINDOW], weights
        span = Span.whole(chunk.shape[1], tokens.device, torch.tensor([[begin]]))
        start = h = model.embedded(chunk, span)
        for i in range(passes):
            if i and i % every == 0:
                h, weights = h.detach(), (weights[0], weights[1].detach() + old[1] - old[1].detach())
            if i:
                h = model._again(start) if i <= first else model.handed_on(h, span)
                weights = model.begin_pass(weights)
            _, h, weights = SleepModel.wake(model, h, weights, span)
            if i == 0:
                logits.append(model.readout(h))
            if i >= first and begin + WINDOW < 21:
                of_pass = traces[:, i - first, begin : begin + WINDOW]
                losses.append(F.cross_entropy(model.readout(h)[of_pass >= 0], of_pass[of_pass >= 0], reduction="none"))
        weights = model.evict(weights, span)
    loss = F.cross_entropy(torch.cat(logits, 1)[:, :-1][mask[:, 1:]], tokens[mask])
    assert_same_gradients(model, out.loss + out.trace_loss, loss + torch.cat(losses).mean())


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
@pytest.mark.parametrize(
    ("sleep_on", "truncation"), [("prompts", Truncation()), ("all", Truncation(windows=2, every=2))]
)
def test_recomputing_changes_nothing(
    make_model: MakeModel, recompute: str, sleep_on: str, truncation: Truncation
) -> None:
    model = make_model(mixers=MIXERS, sleep_on=sleep_on, eviction="sliding", carry="token", reads_first=True)
    model.truncation = truncation
    tokens, mask = rows(1, answers=ANSWERS[sleep_on])

    def found() -> list[Tensor]:
        out = model(tokens, mask, 4, traces_of(tokens, 3))
        return gradients(model, out.loss + out.trace_loss)

    plain = found()
    model.recompute = recompute
    for got, expected in zip(found(), plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("recompute", ["pass", "window", "both"])
def test_recomputing_keeps_no_logits_of_passes(make_model: MakeModel, recompute: str) -> None:
    """With the vocabulary of a tokenizer they are most of what a pass keeps."""
    model = make_model(vocab_size=500, carry="mixture")
    model.recompute, kept = recompute, 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        logits = tensor.dim() > 1 and tensor.shape[-1] == 500 and tensor.shape[-2] != 16  # not the readout's weights
        kept += tensor.nbytes * logits
        return tensor

    tokens, mask = rows(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens, mask, 4, traces_of(tokens, 4))
    assert kept <= 2 * mask.sum() * 500 * 8  # of the answers


@pytest.mark.parametrize(
    ("traced", "windows", "reached"),
    [
        ((0, 1, 2, 3), None, {0: [0], 3: [0, 1, 2, 3], 4: [0, 1, 2, 3, 4]}),
        ((0, 1, 2, 3), 2, {0: [0], 1: [0, 1], 2: [2], 3: [3], 4: [3, 4]}),
        ((0, 1), 3, {0: [0], 1: [0, 1], 4: [2, 3, 4]}),
        ((0, 1, 2, 3), 1, {i: [i] for i in range(5)}),
    ],
)
def test_a_loss_of_a_pass_reaches_back_through_m_windows(
    make_model: MakeModel, traced: tuple[int, ...], windows: int | None, reached: dict[int, list[int]]
) -> None:
    """The answer stands in window 4. reached: the windows into which the loss of a window has a gradient."""
    tokens, mask = rows(6, tokens=27, answers=(26,))
    traces = torch.full((3, 2, 27), -1)
    for i in traced:
        traces[:, :, i * WINDOW : (i + 1) * WINDOW] = 1
    for window, expected in reached.items():
        model = make_model()
        model.truncation = Truncation(windows=windows)
        assert reached_windows(model, tokens, mask, traces, window) == expected


def reached_windows(model: SleepModel, tokens: Tensor, mask: Tensor, traces: Tensor, window: int) -> list[int]:
    """The windows into which the loss of one window has a gradient, that of its labels where it has any."""
    vectors: list[Tensor] = []
    embedded, trace_loss = model.embedded, model._trace_loss

    def noted_vectors(*arguments: Any) -> Tensor:
        vectors.append(embedded(*arguments).detach().requires_grad_())
        return vectors[-1]

    def of_window(h: Tensor, labels: Tensor) -> Tensor:
        return trace_loss(h, labels) * (len(vectors) - 1 == window)

    model.embedded, model._trace_loss = noted_vectors, of_window  # type: ignore[method-assign, assignment]
    out = model(tokens, mask, 2, traces)
    loss = out.loss if window == 4 else out.trace_loss  # the last window has the answer
    found = torch.autograd.grad(loss, vectors, allow_unused=True, materialize_grads=True)
    return [i for i, gradient in enumerate(found) if gradient.abs().sum() > 0]


def test_nothing_is_computed_that_no_loss_depends_on(make_model: MakeModel) -> None:
    """A pass that hands on nothing writes alone, one with a loss runs whole, and so does one that hands on."""

    def run(traces: int, passes: int = 3, **fields: Any) -> str:
        model = make_model(**{"mixers": ("gated_delta", "attention"), **fields})
        done: list[str] = []
        for number, block in enumerate(model.stack):
            for kind in ("forward", "write"):
                setattr(block, kind, noted(getattr(block, kind), f"{kind[0]}{number}", done))
        tokens, mask = rows(0, tokens=9, answers=(8,))
        model(tokens, mask, passes, traces_of(tokens, traces))
        return " ".join(done[:-2])  # without the waking pass

    assert run(0) == "f0 f1 f0 f1 w0"
    assert run(2) == "f0 f1 f0 f1 w0"
    assert run(3) == "f0 f1 f0 f1 f0 f1"
    assert run(0, reads_first=True) == "w0 f0 f1 w0"
    assert run(2, reads_first=True) == "w0 f0 f1 f0 f1"
    assert run(0, 1, reads_first=True) == "w0"
    assert run(0, mixers=("attention", "attention")) == ""
    assert run(1, mixers=("attention", "attention")) == "f0 f1"
    assert run(3, loop=(0, 1)) == "f0 f0 f0"


def test_a_batch_without_a_label_has_no_loss_and_no_gradient_of_it(make_model: MakeModel) -> None:
    model = make_model(carry="token")
    tokens, mask = rows(1)
    plain, traced = model(tokens, mask, 2), model(tokens, mask, 2, torch.full((3, 2, 21), -1))
    assert plain.trace_loss is None and traced.trace_loss == 0
    together = gradients(model, traced.loss + traced.trace_loss)
    for got, expected in zip(together, gradients(model, plain.loss), strict=True):
        torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("fields", [{"carry": "normalized"}, {"carry": "mixture"}, {"reads_first": True}])
def test_half_precision_is_near_and_its_loss_is_float32(fields: dict[str, Any]) -> None:
    tokens, mask = rows(2)
    wide = build_small(dtype=torch.float32, **fields)
    low = build_small(dtype=torch.float32, **fields).to(torch.bfloat16)
    expected = wide(tokens, mask, 3, traces_of(tokens, 2)).trace_loss
    with torch.autocast("cpu", torch.bfloat16):
        cast = wide(tokens, mask, 3, traces_of(tokens, 2)).trace_loss
    for got in (cast, low(tokens, mask, 3, traces_of(tokens, 2)).trace_loss):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("traces", "passes", "message"),
    [
        (
            torch.zeros(3, 2, 20, dtype=torch.int64),
            2,
            r"traces \[3, 2, 20\] \(torch.int64\): must be \[3, P, 21\], int",
        ),
        (torch.zeros(2, 2, 21, dtype=torch.int64), 2, r"traces \[2, 2, 21\]"),
        (torch.zeros(3, 21, dtype=torch.int64), 2, r"traces \[3, 21\]"),
        (torch.zeros(3, 2, 21), 2, r"traces \[3, 2, 21\] \(torch.float32\)"),
        (torch.full((3, 2, 21), 5), 2, r"traces\[0, 0, 0\] = 5: must be below vocab_size = 5"),
        (torch.zeros(3, 3, 21, dtype=torch.int64), 2, "traces of 3 passes: must be at most 2, as N = 2"),
    ],
)
def test_traces_without_meaning_are_refused(make_model: MakeModel, traces: Tensor, passes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model()(*rows(0), passes, traces)


def test_traces_of_a_pass_that_only_reads_or_learns_nothing_are_refused(make_model: MakeModel) -> None:
    tokens, mask = rows(0)
    model = make_model(reads_first=True)
    with pytest.raises(ValueError, match="traces of 2 passes: must be at most 1, as N = 2, the first of which only"):
        model(tokens, mask, 2, traces_of(tokens, 2))
    model.truncation = Truncation(passes=1)
    with pytest.raises(ValueError, match=r"truncation\.passes = 1: must be null with traces; use truncation\.every"):
        model(tokens, mask, 2, traces_of(tokens, 1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"carry": "vector"}, "carry = 'vector': must be one of hidden, normalized, token, mixture"),
        ({"reads_first": 1}, "reads_first = 1: must be true or false"),
        ({"carry": "token", "loop": (1, 3)}, "carry = 'token': must be hidden or normalized where the loop begins at"),
        ({"carry": "mixture", "loop": (2, 4)}, "carry = 'mixture': must be .* block 2: tokens enter at block 0"),
        ({"reads_first": True, "loop": (1, 2)}, "reads_first = True: must be false where the loop begins at block 1"),
        ({"carry": "normalized", "loop_norm": True}, "loop_norm = True: must be false with carry = normalized"),
        ({"carry": "token", "pass_embed": "yes"}, "pass_embed = 'yes': must be true or false"),
        ({"carry": "normalized", "pass_embed": True}, "pass_embed = True: must be false with carry = normalized and"),
    ],
)
def test_what_cannot_be_handed_on_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(vocab_size=5, **fields)
