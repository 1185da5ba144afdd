"""What is measured of a model's costs, and the arithmetic of what it keeps."""

import time

import pytest
import torch

from sleepmodel import Session
from sleepmodel.accounting import kv_bytes, state_bytes
from sleepmodel.evaluation import latency
from sleepmodel.evaluation.latency import TIMED_TOKENS, measure_inference_costs
from sleepmodel.states import named_tensors
from tests.sleepmodel.conftest import MakeModel


def test_more_passes_take_longer_asleep_and_keep_as_much(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "perf_counter", time.thread_time)  # which stands while others have the processor
    model = make_model(window=2 * TIMED_TOKENS)
    one, eight = measure_inference_costs([("one", model, 1), ("eight", model, 8)], rounds=4)
    assert (one.variant, one.sleep_passes, eight.variant, eight.sleep_passes) == ("one", 1, "eight", 8)
    assert eight.sleep_ms > 2 * one.sleep_ms > 0 and one.awake_ms > 0
    assert one.bytes(10**6) == eight.bytes(10**6) == state_bytes(model, 1) + kv_bytes(model, 1, 2 * TIMED_TOKENS)
    assert one.bytes(3) == state_bytes(model, 1) + kv_bytes(model, 1, 3)


def test_windows_down_to_the_smallest_and_rows_that_never_fill_one(make_model: MakeModel) -> None:
    small, never = measure_inference_costs(
        [("small", make_model(window=2), 2), ("never", make_model(window=128), 2)], rounds=2
    )
    assert small.sleep_ms > 0 and small.awake_ms > 0
    assert never.sleep_ms == 0 and never.awake_ms > 0  # at most 64 positions


def test_local_attention_keeps_no_more_than_its_span(make_model: MakeModel) -> None:
    model = make_model(mixers=("attention", "local_attention", "gated_delta", "local_attention"), window=16)
    (cost,) = measure_inference_costs([("local", model, 1)], rounds=1)
    for tokens, held in ((1, 1), (4, 4), (5, 5), (16, 16), (10**6, 16)):
        assert cost.bytes(tokens) == state_bytes(model, 1) + kv_bytes(model, 1, held), tokens
    session = Session(model)
    session.read(torch.zeros(1, 15, dtype=torch.int64))
    caches = [leaf for name, leaf in named_tensors(session._state.states, "") if name.endswith((".k", ".v"))]
    assert cost.bytes(15) - state_bytes(model, 1) == sum(leaf.nbytes for leaf in caches)


def test_a_token_is_timed_until_the_gpu_is_done(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes a second for all that it was given before the host waits for it."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(latency, "wait_for", lambda device: now.append(now.pop() + 1.0))
    (cost,) = measure_inference_costs([("model", make_model(window=2 * TIMED_TOKENS), 1)], rounds=1)
    assert cost.awake_ms == 1e3 / TIMED_TOKENS
