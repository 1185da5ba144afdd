"""A session computes what training computes, in whatever pieces it reads."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sleepmodel import PAD, Session, SleepModel
from sleepmodel.config.model import MIXERS, SLEEP_ON
from tests.sleepmodel.conftest import EVERY_MIXER, EXACT, KINDS, build_small
from tests.sleepmodel.test_padding import batches, padded

LENGTH, ROWS = 23, 3


def tokens_of(seed: int, rows: int = ROWS, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 5, (rows, length), generator=torch.Generator().manual_seed(seed))


def trained_logits(model: SleepModel, tokens: Tensor, passes: int) -> Tensor:
    """Of every token behind which another stands in the same window, each by a forward that answers in that window:
    [rows, T, vocab], nan elsewhere."""
    out = torch.full((*tokens.shape, 5), torch.nan, dtype=torch.float64)
    for start in range(0, tokens.shape[1], 6):
        answers = torch.zeros_like(tokens, dtype=torch.bool)
        answers[:, start + 1 : start + 6] = True
        if answers.any():
            out[:, :-1][answers[:, 1:]] = model(tokens, answers, passes).logits
    return out


def read_in_pieces(session: Session, tokens: Tensor, data: st.DataObject) -> Tensor:
    """Every row by pieces of its own lengths, pads anywhere behind its first token."""
    rows, length = tokens.shape
    done, out = [0] * rows, torch.full((rows, length, 5), torch.nan, dtype=torch.float64)
    while min(done) < length:
        width = data.draw(st.integers(1, 9), "width")
        piece, places = torch.full((rows, width), PAD), []
        for row in range(rows):
            columns = sorted(data.draw(st.sets(st.integers(0, width - 1)), f"columns of row {row}"))
            if not done[row]:
                columns = [0, *columns[1:]]
            columns = columns[: length - done[row]] or ([0] if done[row] < length else [])
            piece[row, columns] = tokens[row, done[row] : done[row] + len(columns)]
            places.append((row, columns, done[row]))
            done[row] += len(columns)
        logits = session.read(piece)
        for row, columns, start in places:
            out[row, start : start + len(columns)] = logits[row, columns]
        assert session.kv_tokens <= 6
    return out


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("sleep_on", SLEEP_ON)
@settings(max_examples=8)
@given(data=st.data(), passes=st.integers(1, 3))
def test_pads_on_the_left_stand_as_in_training(sleep_on: str, eviction: str, data: st.DataObject, passes: int) -> None:
    """Left pads of up to two windows, read in any pieces: the logits of training, of each row's first answer or, where
    training sleeps on all windows, of every answer."""
    tokens, mask = padded(*data.draw(batches(sleep_on)))
    windows = data.draw(st.integers(0, 1), "windows of pads")
    tokens, mask = F.pad(tokens, (6 * windows, 0), value=PAD), F.pad(mask, (6 * windows, 0))
    known = mask if sleep_on == "all" else mask & (mask.cumsum(1) == 1)
    model = build_small(eviction=eviction, mixers=EVERY_MIXER, sleep_on=sleep_on)
    expected = model(tokens, known, passes).logits
    session, cuts = Session(model, len(tokens), sleep_passes=passes), data.draw(st.lists(st.integers(1, 9)), "widths")
    pieces = tokens.tensor_split(torch.tensor(cuts).cumsum(0).tolist() if cuts else [], dim=1)
    logits = torch.cat([session.read(piece) for piece in pieces], 1)
    torch.testing.assert_close(logits[:, :-1][known[:, 1:]], expected, **EXACT)


def assert_same_where_known(got: Tensor, known: Tensor) -> None:
    where = ~known.isnan()
    torch.testing.assert_close(got[where], known[where], **EXACT)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(
    "fields", [{"mixers": ("attention", "gated_delta", "attention")}, *KINDS.values()], ids=["hybrid", *KINDS]
)
@settings(max_examples=6)
@given(
    data=st.data(), seed=st.integers(0, 1000), passes=st.integers(1, 3), loop=st.sampled_from([None, (0, 1), (1, 2)])
)
def test_every_split_into_reads_gives_the_logits_of_training(
    eviction: str,
    fields: dict[str, Any],
    data: st.DataObject,
    seed: int,
    passes: int,
    loop: tuple[int, int] | None,
) -> None:
    model = build_small(seed=seed, eviction=eviction, sleep_passes=passes, loop=loop, **fields)
    tokens = tokens_of(seed)
    got = read_in_pieces(Session(model, ROWS), tokens, data)
    assert_same_where_known(got, trained_logits(model, tokens, passes))


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
@settings(max_examples=3)
@given(
    data=st.data(), seed=st.integers(0, 1000), passes=st.integers(1, 3), loop=st.sampled_from([None, (0, 1), (1, 2)])
)
def test_a_language_model_is_trained_as_a_session_reads(
    eviction: str,
    fields: dict[str, Any],
    data: st.DataObject,
    seed: int,
    passes: int,
    loop: tuple[int, int] | None,
) -> None:
    """Every split into reads, every token but the first predicted, to the end of rows of all lengths."""
    model = build_small(seed=seed, eviction=eviction, sleep_passes=passes, loop=loop, sleep_on="all", **fields)
    tokens = tokens_of(seed)
    got = read_in_pieces(Session(model, ROWS), tokens, data)
    lengths = torch.tensor([[data.draw(st.integers(2, LENGTH), "length")] for _ in range(ROWS)])
    ragged = tokens.masked_fill(torch.arange(LENGTH) >= lengths, PAD)
    answers = ragged >= 0
    answers[:, 0] = False
    torch.testing.assert_close(got[:, :-1][answers[:, 1:]], model(ragged, answers).logits, **EXACT)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_token_by_token_is_training(mixer: str, eviction: str) -> None:
    model = build_small(eviction=eviction, mixers=("attention", mixer), sleep_passes=2)
    tokens, session = tokens_of(5), Session(model, ROWS)
    got = torch.cat([session.read(tokens[:, t : t + 1]) for t in range(LENGTH)], 1)
    assert_same_where_known(got, trained_logits(model, tokens, 2))
    assert session.sleeps.tolist() == [3] * ROWS and session.filled.tolist() == [5] * ROWS


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("first", [1, 2, 4])
def test_an_early_sleep_is_a_row_padded_on_its_left(eviction: str, first: int) -> None:
    """Rows differ in how much they have read when they are told to sleep."""
    model = build_small(eviction=eviction, mixers=EVERY_MIXER, sleep_passes=3)
    tokens = tokens_of(first, length=17)
    padded = torch.full((ROWS, 23), PAD)
    session, firsts = Session(model, ROWS), [first, 3, 5]
    opening = torch.full((ROWS, 5), PAD)
    for row, n in enumerate(firsts):
        opening[row, :n] = tokens[row, :n]
        padded[row, 6 - n : 23 - n] = tokens[row]
    session.read(opening)
    session.sleep()
    for row, n in enumerate(firsts):
        mask = torch.zeros_like(padded, dtype=torch.bool)
        mask[row, 13:17] = True
        expected = model(padded, mask).logits
        one = torch.full((ROWS, 10), PAD)
        one[row] = tokens[row, n : n + 10]
        got = session.fork().read(one)[row, 6:10]
        torch.testing.assert_close(got, expected, **EXACT)


def test_sleeping_early_with_one_pass_changes_no_sliding_window() -> None:
    model = build_small(eviction="sliding", mixers=EVERY_MIXER)
    tokens = tokens_of(3, length=12)
    plain, sleepy = Session(model, ROWS), Session(model, ROWS)
    expected = plain.read(tokens)
    got = []
    for token in tokens.T:
        got.append(sleepy.read(token[:, None]))
        sleepy.sleep()
    torch.testing.assert_close(torch.cat(got, 1), expected, **EXACT)


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize(("mixer", "conv"), [("jet", None), ("gated_delta", 4)])
def test_an_early_sleep_keeps_earlier_tokens_beside_the_refined(mixer: str, conv: int | None, passes: int) -> None:
    """Four tokens, an early sleep, one more, an early sleep: what is in sight are all five, four of them refined."""
    model = build_small(eviction="sliding", mixers=("attention", mixer), conv=conv, sleep_passes=passes)
    session = Session(model, 1)
    session.read(tokens_of(1, 1, 4))
    session.sleep()
    before = session.memory.tensors
    session.read(tokens_of(2, 1, 1))
    session.sleep()
    after = session.memory.tensors
    assert session.kv_tokens == 5
    torch.testing.assert_close(after["state.states.0.v"][:, :, -5:-1], before["state.states.0.v"][:, :, -4:], **EXACT)
    torch.testing.assert_close(after["state.states.1.tail"][:, :2], before["state.states.1.tail"][:, 1:], **EXACT)


def test_passes_are_set_by_session_and_by_sleep() -> None:
    model = build_small()
    tokens = tokens_of(1)

    def logits(session: Session) -> Tensor:
        session.read(tokens[:, :5])
        session.sleep(4)
        return session.read(tokens[:, 5:9])

    fork = Session(model, 1, sleep_passes=4).fork()
    assert fork.sleep_passes == 4
    fork.sleep_passes = 2
    for bad in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match=r"sleep_passes = .* must be an integer of at least 1"):
            fork.sleep_passes = bad  # type: ignore[assignment]
        with pytest.raises(ValueError, match="sleep_passes"):
            fork.sleep(bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="sleep_passes"):
            Session(model, sleep_passes=bad)  # type: ignore[arg-type]
    assert fork.sleep_passes == 2
    assert not torch.allclose(logits(Session(model, ROWS)), Session(model, ROWS).read(tokens[:, :9])[:, 5:])
    four = Session(model, ROWS, sleep_passes=4)
    torch.testing.assert_close(four.read(tokens)[:, 18:22], trained_logits(model, tokens, 4)[:, 18:22], **EXACT)


def test_a_fork_answers_many_questions_on_one_memory() -> None:
    model = build_small(mixers=EVERY_MIXER, sleep_passes=2)
    context, questions = tokens_of(1, 2, 14), tokens_of(2, 6, 3)
    session = Session(model, 2)
    session.read(context)
    before = session.memory
    got = session.fork(3).read(questions)
    expected = Session(model, 6).read(torch.cat((context.repeat_interleave(3, 0), questions), 1))[:, 14:]
    torch.testing.assert_close(got, expected, **EXACT)
    for name, tensor in session.memory.tensors.items():
        assert torch.equal(tensor, before.tensors[name])


def test_greedy_generation_says_and_reads_the_likeliest_token() -> None:
    model = build_small(sleep_passes=2)
    context, session = tokens_of(4, length=8), Session(model, ROWS)
    session.read(context)
    said = session.generate(9)
    again = Session(model, ROWS)
    logits = again.read(torch.cat((context, said), 1))
    assert torch.equal(logits[:, 7:16].argmax(-1), said)
    assert session.filled.tolist() == again.filled.tolist() and session.sleeps.tolist() == [2] * ROWS


def test_sampling_follows_its_distribution_and_seed() -> None:
    model = build_small()
    session = Session(model, 1)
    session.read(tokens_of(4, 1, 3))
    many = session.fork(4000)
    logits = session.fork().read(torch.full((1, 1), PAD), last=True)[0]
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        p = (logits / temperature).softmax(-1)
        ranked = p.sort(descending=True)
        allowed = ranked.indices[: int((ranked.values.cumsum(0) < top_p).sum()) + 1]
        expected = torch.zeros(5, dtype=torch.float64)
        expected[allowed] = p[allowed] / p[allowed].sum()
        said = many.fork().generate(1, temperature=temperature, top_p=top_p, seed=7)[:, 0]
        share = torch.bincount(said, minlength=5) / 4000
        # five standard deviations
        assert ((share - expected).abs() <= 5 * (expected * (1 - expected) / 4000).sqrt()).all()
        assert torch.equal(said, many.fork().generate(1, temperature=temperature, top_p=top_p, seed=7)[:, 0])
    assert not torch.equal(many.fork().generate(2, 1.0, seed=1), many.fork().generate(2, 1.0, seed=2))


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "seed": 1}, {"temperature": 0.7, "top_p": 0.5, "seed": 2}]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_token(value: float, options: dict[str, Any]) -> None:
    """Rows that have stopped say nothing more, whatever their logits are."""
    model = build_small()
    session = Session(model, ROWS)
    session.read(tokens_of(4, length=3))
    said = session.fork().generate(1, **options)[:, 0].tolist()
    with torch.no_grad():
        model.embed.weight[said[1]] = value
    session.fork().generate(2, stop=tuple(said), **options)
    with pytest.raises(ValueError, match=rf"row {said.index(said[1])}: after 4 tokens its logits are not fin"):
        session.generate(2, **options)
    assert session.filled.tolist() == [4] * ROWS


@pytest.mark.parametrize("temperature", [1e-30, 1e-7])
def test_a_very_low_temperature_is_greedy(temperature: float) -> None:
    session = Session(build_small(), 64)
    session.read(tokens_of(4, 64, 3))
    assert torch.equal(session.fork().generate(3, temperature), session.generate(3))


def test_a_row_that_only_waited_goes_on_from_its_own_last_token() -> None:
    model = build_small()
    tokens, session, alone = tokens_of(3, 2, 9), Session(model, 2), Session(model, 1)
    session.read(tokens[:, :5])
    waits = tokens[:, 5:].clone()
    waits[1] = PAD
    session.read(waits)
    alone.read(tokens[1:, :5])
    assert torch.equal(session.generate(3)[1:], alone.generate(3))


def test_no_rows_and_no_tokens_are_read_and_said() -> None:
    session = Session(build_small(), 0)
    assert session.read(torch.zeros(0, 4, dtype=torch.int64)).shape == (0, 4, 5)
    assert session.generate(2).shape == (0, 2)
    one = Session(build_small(), 1)
    assert one.read(torch.zeros(1, 0, dtype=torch.int64)).shape == (1, 0, 5)
    assert torch.equal(one.read(torch.zeros(1, 0, dtype=torch.int64), last=True), torch.zeros(1, 5).double())


@pytest.mark.parametrize("count", ["filled", "sleeps"])
def test_what_a_session_counts_is_its_own(count: str) -> None:
    session = Session(build_small(), 2)
    session.read(tokens_of(1, 2))
    before = getattr(session, count).clone()
    getattr(session, count).add_(5)
    assert torch.equal(getattr(session, count), before)


def test_the_default_device_of_torch_changes_nothing() -> None:
    """A model on a CPU in a program whose default device is another."""
    model, tokens = build_small(), tokens_of(1, 2)
    asked = torch.zeros_like(tokens, dtype=torch.bool)
    asked[:, -1] = True
    expected = model(tokens, asked).loss, Session(model, 2).read(tokens)
    with torch.device("meta"):
        session = Session(model, 2)
        found = model(tokens, asked).loss, session.read(tokens)
        assert session.fork(2).generate(2, stop=[0]).shape == (4, 2)
    assert all(map(torch.equal, found, expected))


def test_what_a_read_returns_is_the_callers() -> None:
    session, other = (Session(build_small(), 2) for _ in range(2))
    other.read(tokens_of(1, 2), last=True)
    session.read(tokens_of(1, 2), last=True).fill_(0)  # as where tokens are masked out
    assert torch.equal(session.generate(3), other.generate(3))


def test_generation_ends_where_every_row_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    session, read = Session(build_small(), 2), list[Tensor]()
    session.read(tokens_of(1, 2))
    first = session.fork().generate(1)[:, 0]
    monkeypatch.setattr(session, "read", lambda tokens, last: read.append(tokens))
    said = session.generate(5, stop=tuple(first.tolist()))
    assert said.tolist() == [[int(token), *[PAD] * 4] for token in first] and len(read) == 1


def test_a_row_that_has_said_a_stop_token_says_and_reads_nothing_more() -> None:
    model = build_small()
    session = Session(model, ROWS)
    session.read(tokens_of(6, length=4))
    free = session.fork().generate(8)
    stop = int(free[0, 2])
    stopped = session.generate(8, stop=(stop,))
    for row in range(ROWS):
        told = free[row].tolist()
        end = told.index(stop) + 1 if stop in told else 8
        assert stopped[row].tolist() == told[:end] + [PAD] * (8 - end)
        assert int(session.filled[row]) == (4 + end) % 6
