"""What the fast weights hold after each pass: the state that is asked, and what probes find in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from datagen import Depo, Rows
from sleepmodel.evaluation import probe
from sleepmodel.evaluation.accuracy import predict
from sleepmodel.evaluation.probe import Reading, check_probed, decode, measure_held, read_after
from sleepmodel.mixers.base import Span
from sleepmodel.model import SleepModel
from sleepmodel.states import named_tensors
from tests.sleepmodel.conftest import build_small

TASK = Depo(nodes=4, hops=3, queries=2, names=6, least=4)


def probed_model(**fields: Any) -> SleepModel:
    return build_small(vocab_size=len(TASK.vocabulary), window=TASK.context_length, **fields)


def asked(rows: int, split: str = "test") -> dict[int, Rows]:
    return {depth: TASK.asked_at(TASK.sample(split, 0, 0, rows), depth) for depth in (1, 2, 3)}


@pytest.mark.parametrize(
    "fields", [{}, {"mixers": ("attention", "delta", "jet"), "conv": 4}, {"carry": "token", "reads_first": True}]
)
def test_after_pass_n_of_three_the_state_is_that_of_a_sleep_of_n_passes(fields: dict[str, Any]) -> None:
    model = probed_model(**fields)
    tokens = torch.from_numpy(asked(3)[1].batch()[0])[:, : TASK.context_length]
    span = Span.whole(TASK.context_length, tokens.device)
    embedded, before = model.embedded(tokens, span), model.initial_states(len(tokens))
    h, states = embedded, before
    for number, part in enumerate(model.sleep_schedule(3)):
        entering = h if number > int(model.config.reads_first) else embedded
        h, states = model.run_pass(number, part, entering, states, span)
        shorter, _ = model.sleep(embedded, before, span, number + 1)
        assert _differ(shorter, before)
        for (name, left), (_, alone) in zip(_leaves(model.evict(states, span)), _leaves(shorter), strict=True):
            torch.testing.assert_close(left, alone, rtol=1e-9, atol=1e-11, msg=f"{name} after pass {number + 1}")


def _leaves(states: Any) -> list[tuple[str, torch.Tensor]]:
    return list(named_tensors(states, "states"))


def _differ(states: Any, others: Any) -> bool:
    pairs = zip(_leaves(states), _leaves(others), strict=True)
    return any(left.shape == right.shape and not torch.equal(left, right) for (_, left), (_, right) in pairs)


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_a_probe_sees_what_the_fast_weights_give_to_the_token_before_the_answer(passes: int) -> None:
    model, rows = probed_model(mixers=("gated_delta",), max_positions=None), asked(5)[2]
    tokens = torch.from_numpy(rows.batch()[0])
    context, question = tokens.split(TASK.context_length, 1)
    states = model.initial_states(len(tokens))
    if passes:
        span = Span.whole(TASK.context_length, tokens.device)
        states, _ = model.sleep(model.embedded(context, span), states, span, passes)
    span, block = Span.whole(3, tokens.device), model.stack[0]
    given, _ = block.mixer(block.mixer_norm(model.embedded(question[:, :3], span)), states[0], span)
    found = read_after(model, rows, passes, batch_size=2)
    np.testing.assert_allclose(found.given, given[:, 2].detach().numpy(), rtol=1e-9, atol=1e-11)
    if passes:
        assert found.likely.tolist() == predict(model, rows, passes).tokens[rows.loss_mask()].tolist()


def test_without_a_sleep_nothing_of_the_context_is_known() -> None:
    model, rows = probed_model(mixers=("gated_delta", "attention", "gated_delta"), max_positions=None), asked(4)[1]
    tokens = rows.batch()[0].astype(np.uint16)
    tokens[:, TASK.context_length :] = tokens[0, TASK.context_length :]  # one question, of several contexts
    alike = Rows(tokens, rows.answer_start, rows.answer_length, rows.answer_depth, rows.pad)
    awake, slept = read_after(model, alike, 0), read_after(model, alike, 1)
    assert awake.given.shape == (len(alike), 2 * model.config.d_model)
    np.testing.assert_allclose(awake.given, np.broadcast_to(awake.given[0], awake.given.shape), rtol=1e-9)
    assert np.abs(slept.given[0] - slept.given[-1]).max() > 1e-3


def test_a_probe_finds_what_is_linearly_there_and_nothing_else() -> None:
    draw = np.random.default_rng(0)
    answers = draw.integers(10, 16, (900, 2))
    direction = draw.normal(size=(16, 40))
    given = np.concatenate((direction[answers[:, 0]], np.ones((900, 1))), axis=1)  # holds the first answer alone
    given[:, :40] += 0.5 * draw.normal(size=(900, 40))
    found = decode(given[:600], answers[:600], given[600:]) == answers[600:]
    assert found[:, 0].mean() > 0.98
    assert abs(found[:, 1].mean() - 1 / 6) < 0.08


def test_a_probe_is_scored_on_what_it_was_not_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def random(model: object, rows: Rows, passes: int) -> Reading:
        return Reading(np.zeros(len(rows), np.int64), np.random.default_rng(len(rows)).normal(size=(len(rows), 90)))

    known, answers = random(None, asked(30)[1], 1).given, np.arange(60)[:, None] % 6
    assert (decode(known, answers, known) == answers).mean() > 0.9  # 90 features know 60 answers by heart
    monkeypatch.setattr(probe, "read_after", random)
    (held, *_) = measure_held(probed_model(), asked(40, "validation"), asked(30), [1], resamples=0)
    assert all(share.value < 0.6 for share in held.decoded.values())


def holds_the_hop_of_its_passes(model: object, rows: Rows, passes: int) -> Reading:
    """In place of a model: after n passes the fast weights hold the n-th hop, whatever is asked."""
    tokens = rows.batch()[0]
    following = np.zeros((len(tokens), len(TASK.vocabulary)), np.int64)
    context = tokens[:, : TASK.context_length]
    np.put_along_axis(following, context[:, ::2], context[:, 1::2], axis=1)
    node = tokens[:, -3]
    for _ in range(passes):
        node = np.take_along_axis(following, node[:, None], axis=1)[:, 0]
    return Reading(node, np.eye(len(TASK.vocabulary))[node])


def test_the_hop_that_is_held_is_found_at_each_depth_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "read_after", holds_the_hop_of_its_passes)
    held = list(measure_held(probed_model(), asked(120, "validation"), asked(80), range(4), together=2, resamples=20))
    assert [(each.passes, each.asked) for each in held] == [(n, k) for n in range(4) for k in (1, 2, 3)]
    for each in held:
        assert each.answered.value == (each.asked == each.passes)
        for hop, share in each.decoded.items():
            assert share.value == 1 if hop == each.passes else share.value < 0.6, (each.passes, hop)
            assert share.interval is not None and share.interval[0] <= share.value <= share.interval[1]


def test_questions_of_one_context_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_right(model: object, rows: Rows, passes: int) -> Reading:
        answers = rows.batch()[0][:, -1]
        return Reading(np.where(rows.batch()[0][:, 0] < 3, answers, -1), np.eye(len(TASK.vocabulary))[answers])

    def interval(together: int, copies: int) -> tuple[float, float] | None:
        rows = TASK.asked_at(TASK.sample("test", 0, 0, 100), 1)[::2]
        tested = {1: rows[np.repeat(np.arange(100), copies)]}
        (held,) = measure_held(probed_model(), {1: rows}, tested, [1], together)
        return held.answered.interval

    monkeypatch.setattr(probe, "read_after", half_right)
    alone, copied, apart = interval(1, 1), interval(5, 5), interval(1, 5)
    assert alone == copied and alone is not None and apart is not None
    assert apart[1] - apart[0] < 0.6 * (alone[1] - alone[0])


def row(tokens: int, *answers: int, length: int = 1) -> Rows:
    """A row of zeros with answers at these places."""
    return Rows.of([[0] * tokens], [[*answers]], [[length] * len(answers)], [[1] * len(answers)])


@pytest.mark.parametrize(
    ("fields", "rows", "message"),
    [
        ({"eviction": "sliding"}, row(9, 8), "eviction = 'sliding': must be hard"),
        ({"mixers": ("attention",)}, row(9, 8), "mixers = .*: must be such that a block has fast weights"),
        ({}, row(9, 8)[slice(0, 0)], "rows = 0: must be at least 1"),
        ({}, row(9, 7, length=2), "answer tokens = 2: must be 1 in each row, for a probe; this is row 0"),
        ({}, Rows.joined([row(9, 8), row(9, 7, 8)]), "answer tokens = 2: must be 1 in each row, .*; this is row 1"),
        ({}, row(9, 5), r"window = 6: must be such that .* not in the windows \[0\]"),
        ({}, Rows.joined([row(15, 8), row(15, 14)]), r"window = 6: must be such that .* not in the windows \[1, 2\]"),
    ],
)
def test_what_cannot_be_probed_is_refused(fields: dict[str, Any], rows: Rows, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_probed(build_small(**fields), rows)
