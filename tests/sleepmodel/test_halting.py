"""Sleeps that end when a further pass changes nothing."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from sleepmodel import Halting, ModelConfig, Session, SleepModel, halting
from sleepmodel.halting import MEASURES
from tests.sleepmodel.conftest import ARCHITECTURES, EVERY_MIXER, EXACT, build_small
from tests.sleepmodel.test_session import tokens_of

MOST = 7
KINDS: dict[str, dict[str, Any]] = {
    "hidden": {"mixers": EVERY_MIXER},
    "normalized, convolved": {"carry": "normalized", "conv": 4},
    "token": {"carry": "token"},
    "token, reads first, marked": {"carry": "token", "reads_first": True, "pass_embed": True},
    "mixture, reads first": {"carry": "mixture", "reads_first": True},
    "blocks behind the loop": {"mixers": ("attention", "gated_delta", "jet", "attention"), "loop": (0, 2)},
    "blocks around the loop": {"mixers": ("gated_delta", "attention", "delta", "attention", "linear"), "loop": (1, 3)},
    "ouro": {**ARCHITECTURES["ouro"], "loop": (1, 2)},
}
every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
each_way = pytest.mark.parametrize(("eviction", "measure"), product(("hard", "sliding"), MEASURES))


def a_rule_by_which_rows_differ(model: SleepModel, tokens: Tensor, measure: Any) -> Halting:
    """So that one window ends after several numbers of passes."""
    for change in (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7):
        rule = Halting(change, measure)
        session = Session(model, len(tokens), sleep_passes=MOST, halting=rule)
        session.read(tokens)
        if len(set(session.passes.tolist())) > 1:
            return rule
    raise AssertionError("all rows halt together under every rule")


@every_kind
@each_way
def test_a_row_that_halts_has_the_states_of_that_n(fields: dict[str, Any], eviction: str, measure: str) -> None:
    """Rows that halt at different passes, of different lengths in early sleeps, over several windows: each against a
    session of its own with a fixed N for each sleep."""
    model = build_small(eviction=eviction, **fields)
    tokens, early = tokens_of(2, 6, 24), (0, 2)
    session = Session(model, 6, sleep_passes=MOST, halting=a_rule_by_which_rows_differ(model, tokens[:, :6], measure))
    pieces = list(tokens.split([4, 6, 3, 6, 5], 1))  # at most one sleep each
    for i in early:
        pieces[i][1::2, 2:] = -1
    logits, made = [], []
    for i, piece in enumerate(pieces):
        before = session.passes
        logits.append(session.read(piece))
        if i in early:
            session.sleep()
        made.append(session.passes - before)
    assert session.sleeps.tolist() == [4] * 6 and session.passes.tolist() == torch.stack(made).sum(0).tolist()
    assert 4 * (2 + model.config.reads_first) <= int(session.passes.min()) and int(session.passes.max()) <= 4 * MOST
    assert len({tuple(row) for row in torch.stack(made, 1).tolist()}) > 1
    for row in range(6):
        fixed = Session(model, 1)
        for i, piece in enumerate(pieces):
            fixed.sleep_passes = max(1, int(made[i][row]))
            torch.testing.assert_close(logits[i][row : row + 1], fixed.read(piece[row : row + 1]), **EXACT)
            if i in early:
                fixed.sleep()


TOP = 4


def counting_up(**fields: Any) -> SleepModel:
    """Each pass replaces every token by its successor; the highest, 4, is its own. Mixers are what they begin as, zero,
    but for the fast weights that they write."""
    model = SleepModel(
        ModelConfig(vocab_size=TOP + 1, d_model=8, n_heads=2, mixers=("gated_delta",), window=6, **fields)
    )
    up, down = (layer for layer in model.stack[0].mlp.modules() if isinstance(layer, torch.nn.Linear))
    with torch.no_grad():
        for weight in (model.embed.weight, model.lm_head.weight, up.weight, down.weight):
            weight.zero_()
        one = torch.eye(TOP + 1, 8)
        model.embed.weight += one
        model.lm_head.weight += one
        up.weight[: TOP + 1] += one  # of normed vectors, sqrt(8) times as long; the MLP squares them
        for token in range(TOP):
            down.weight[:, token] = (one[token + 1] - one[token]) / 8
    return model.double()


WINDOWS = torch.tensor([[3, 4, 4, 4, 3, 4], [4, 2, 3, 4, 4, 4], [0, 1, 2, 3, 4, 4], [4, 4, 4, 4, 4, 4]])


@pytest.mark.parametrize("reads_first", [False, True])
@pytest.mark.parametrize(("most", "expected"), [(9, [2, 3, 5, 2]), (4, [2, 3, 4, 2])])
def test_passes_end_when_the_readout_repeats(reads_first: bool, most: int, expected: list[int]) -> None:
    """The lowest token of a window says after how many passes all are at the top, and one pass more shows it."""
    model = counting_up(carry="token", reads_first=reads_first)
    session = Session(model, 4, sleep_passes=most + reads_first, halting=Halting())
    session.read(WINDOWS)
    assert session.passes.tolist() == [n + reads_first for n in expected]
    session.read(WINDOWS.flip(0))
    both = torch.tensor(expected) + torch.tensor(expected[::-1]) + 2 * reads_first
    assert session.passes.tolist() == both.tolist() and session.sleeps.tolist() == [2] * 4


@pytest.mark.parametrize(("change", "expected"), [(1 / 3, [2, 2, 3, 2]), (1 / 6, [2, 2, 4, 2]), (0.99, [2, 2, 2, 2])])
def test_a_share_of_the_tokens_may_change(change: float, expected: list[int]) -> None:
    """By the tokens of the window alone, as far as it is filled: two of three, not of six, are still moving."""
    model = counting_up(carry="token")
    session = Session(model, 4, sleep_passes=9, halting=Halting(change))
    session.read(WINDOWS)
    assert session.passes.tolist() == expected
    early = Session(model, 3, sleep_passes=9, halting=Halting(1 / 3))
    early.read(torch.tensor([[0, 0, 4, -1, -1], [0, 4, 4, 4, 4], [4, 4, -1, -1, -1]]))
    early.sleep()
    assert early.passes.tolist() == [5, 2, 2]


def test_passes_end_when_the_fast_weights_settle() -> None:
    """Against the norms by hand, of sessions with each N."""
    model = build_small(mixers=EVERY_MIXER)
    tokens, after = tokens_of(1, 4, 6), []
    for n in range(1, MOST + 1):
        session = Session(model, 4, sleep_passes=n)
        session.read(tokens)
        states = session.memory.tensors
        leaves = [leaf for name, leaf in states.items() if name.startswith("state.states") and leaf.numel()]
        after.append(torch.cat([leaf.flatten(1) for leaf in leaves if leaf.is_floating_point()], 1))
    change = torch.stack([(new - old).norm(dim=1) / old.norm(dim=1) for old, new in pairwise(after)])
    limits, ends = (change[change < 0.9] * (1 + 1e-9)).tolist()[::3], set()
    for limit in limits:
        session = Session(model, 4, sleep_passes=MOST, halting=Halting(limit, "state"))
        session.read(tokens)
        halted = (change <= limit).int()
        expected = torch.where(halted.any(0), halted.argmax(0) + 2, MOST)
        assert session.passes.tolist() == expected.tolist()
        ends |= set(halted.any(0).tolist())
    assert len(limits) > 3 and ends == {False, True}


def test_a_window_is_read_out_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three tokens here: no logits of a whole window, and the same rows halt."""
    model = build_small(vocab_size=7)
    tokens = tokens_of(2, 6, 5)
    rule = a_rule_by_which_rows_differ(model, tokens_of(2, 6, 6), "readout")
    whole, chunked = (Session(model, 6, sleep_passes=MOST, halting=rule) for _ in range(2))
    for session in (whole, chunked):
        session.read(tokens)
    whole.sleep()
    sizes: list[int] = []
    model.norm.register_forward_pre_hook(lambda layer, given: sizes.append(given[0].shape[:-1].numel()))
    monkeypatch.setattr(halting, "CHUNK_LOGITS", 3 * 7 + 2)
    chunked.sleep()
    assert max(sizes) == 3 and sum(sizes) >= 2 * tokens.numel()
    assert chunked.passes.tolist() == whole.passes.tolist() and len(set(whole.passes.tolist())) > 1


def test_a_row_that_has_halted_costs_nothing() -> None:
    model = counting_up(carry="token")
    rows: list[int] = []
    model.stack[0].register_forward_pre_hook(lambda block, given: rows.append(len(given[0])))
    session = Session(model, 4, sleep_passes=9, halting=Halting())
    session.read(WINDOWS[:, :5])
    rows.clear()
    session.sleep()
    # of whole passes after the first; the fourth row is at the top from the start, the first one after a pass
    assert rows == [4, 2, 1, 1] and session.passes.tolist() == [2, 3, 5, 2]


def test_forks_halt_and_go_on_counting() -> None:
    model = counting_up(carry="token")
    session = Session(model, 4, sleep_passes=9, halting=Halting())
    session.read(WINDOWS)
    fork = session.fork(2)
    fork.read(WINDOWS.repeat_interleave(2, 0))
    assert fork.passes.tolist() == [4, 4, 6, 6, 10, 10, 4, 4] and fork.sleeps.tolist() == [2] * 8
    assert session.passes.tolist() == [2, 3, 5, 2] and session.sleeps.tolist() == [1] * 4
    session.sleep()  # an empty window
    assert session.passes.tolist() == [2, 3, 5, 2]


def test_a_memory_counts_sleeps_and_not_their_passes() -> None:
    model = counting_up(carry="token")
    session = Session(model, 4, sleep_passes=9, halting=Halting())
    session.read(WINDOWS)
    resumed = Session(model, memory=session.memory, sleep_passes=9, halting=Halting())
    assert resumed.sleeps.tolist() == [1] * 4 and resumed.passes.tolist() == [0] * 4
    resumed.read(WINDOWS)
    assert resumed.sleeps.tolist() == [2] * 4 and resumed.passes.tolist() == [2, 3, 5, 2]
    resumed = Session(model, memory=session.memory)  # without a rule
    resumed.read(WINDOWS)
    assert resumed.passes.tolist() == [model.config.sleep_passes] * 4


@pytest.mark.parametrize("reads_first", [False, True])
def test_passes_that_are_set_later_may_be_fewer_than_a_rule_compares(reads_first: bool) -> None:
    session = Session(counting_up(carry="token", reads_first=reads_first), 4, sleep_passes=9, halting=Halting())
    session.sleep_passes = 1
    session.read(WINDOWS[:, :5])
    session.sleep()
    session.read(WINDOWS[:, :5])
    session.sleep(passes=2)
    assert session.sleep_passes == 1 and session.passes.tolist() == [3] * 4


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"change": -0.1}, r"change = -0\.1: must be a number from 0 to 1"),
        ({"change": float("nan")}, "change = nan"),
        ({"change": 1.5}, r"change = 1\.5"),
        ({"change": True}, "change = True"),
        ({"measure": "logits"}, "measure = 'logits': must be one of readout, state"),
    ],
)
def test_a_rule_out_of_range_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Halting(**rule)


@pytest.mark.parametrize(
    ("fields", "passes", "rule", "message"),
    [
        ({}, None, Halting(), r"sleep_passes = 1: must be at least 3 with halting: pass 2 is the first"),
        ({"reads_first": True}, 3, Halting(), "sleep_passes = 3: must be at least 4 with halting: pass 3"),
        (
            {"mixers": ("attention", "attention"), "eviction": "sliding"},
            4,
            Halting(0.1, "state"),
            "halting.measure = 'state': must be \"readout\" for a model whose loop has no fast weights",
        ),
        ({"mixers": ("gated_delta", "attention"), "loop": (1, 2)}, 4, Halting(), "mixers = .* under hard eviction"),
    ],
)
def test_a_rule_without_effect_is_refused(
    fields: dict[str, Any], passes: int | None, rule: Halting, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Session(build_small(**fields), sleep_passes=passes, halting=rule)
