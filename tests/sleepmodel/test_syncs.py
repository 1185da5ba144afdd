"""The host waits for a GPU neither in a training step nor, more than once, for a generated token."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from datagen.rows import Rows
from sleepmodel import Session
from sleepmodel.config.training import TrainConfig, Truncation
from sleepmodel.inference.stopwatch import Stopwatch
from sleepmodel.mixers.base import PAD
from sleepmodel.training import loop
from sleepmodel.training.engine import LocalEngine, Losses, WeightedTraces
from sleepmodel.training.loop import NonFiniteError, Save, train
from sleepmodel.transfers import packed, unpacked
from tests.sleepmodel.accelerator import Waits, counted_waits, on_device, on_host
from tests.sleepmodel.conftest import EVERY_MIXER, build_small, rows

Between = Callable[[int, Save], None]
CONFIG = TrainConfig(steps=6, batch_size=4, validate_every=3)


def mixed(sleep_on: str) -> tuple[Tensor, Tensor]:
    """Rows of unequal length, padded on both sides, with answers in one window or in two, and not in the same ones."""
    tokens, mask = rows(1, batch=5, tokens=33, answers=())
    for row, (left, right, answers) in enumerate(
        ((0, 33, (15, 32)), (0, 20, (19,)), (4, 33, (10, 31)), (2, 11, (9, 10)), (0, 33, (32,)))
    ):
        tokens[row, :left], tokens[row, right:] = PAD, PAD
        mask[row, list(answers)] = True
    return tokens, mask


BATCHES = {
    "rule110": ({}, {}, rows(0)),
    "sliding": ({"eviction": "sliding"}, {}, rows(0)),
    "every mixer": ({"eviction": "sliding", "mixers": EVERY_MIXER, "conv": 3}, {}, mixed("prompts")),
    "mixed": ({}, {}, mixed("prompts")),
    "all": ({"sleep_on": "all", "eviction": "sliding"}, {}, mixed("all")),
    "traces": ({"carry": "token", "loop": (0, 1), "sleep_on": "all"}, {"trace_weight": 1.0}, mixed("all")),
    "truncated": ({"sleep_on": "all"}, {"truncation": Truncation(windows=2, passes=1)}, mixed("all")),
}


def engine_of(model: dict[str, Any], config: dict[str, Any]) -> LocalEngine:
    small = build_small(dtype=torch.float32, sleep_passes=3, **model)
    small.truncation = config.get("truncation", Truncation())
    return LocalEngine(small, replace(CONFIG, **config))


@pytest.mark.parametrize("name", BATCHES)
def test_a_step_waits_for_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it computes what a step on a CPU computes."""
    model, config, (tokens, mask) = BATCHES[name]
    traces = None
    if "trace_weight" in config:
        labels = torch.randint(-3, 5, (len(tokens), 2, tokens.shape[1]), generator=torch.Generator().manual_seed(2))
        traces = WeightedTraces(labels, 1.0)
    host, device = engine_of(model, config), engine_of(model, config)
    on_device(device.model)
    device = LocalEngine(device.model, device.config)
    expected = host.backward(tokens, mask, None, 1.0, traces)
    with counted_waits(monkeypatch) as waits:
        losses = device.backward(tokens, mask, None, 1.0, traces)
        norm = device.step(1.0)
    assert waits.lines == []
    torch.testing.assert_close(on_host(losses.answers), expected.answers)
    torch.testing.assert_close(on_host(norm), host.step(1.0), rtol=1e-3, atol=1e-5)
    for a, b in zip(device.model.parameters(), host.model.parameters(), strict=True):
        torch.testing.assert_close(on_host(a), b, rtol=1e-3, atol=1e-3)


def device_engine(config: TrainConfig) -> LocalEngine:
    model = build_small(dtype=torch.float32)
    on_device(model)
    return LocalEngine(model, config)


def waits_of(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, between: Between = lambda step, save: None) -> Waits:
    """Train with the engine."""
    tokens, _ = rows(3, batch=8)
    with counted_waits(monkeypatch) as waits:
        data = Rows.of(tokens.tolist(), [[19]] * 8, [[2]] * 8, [[0]] * 8)
        train(engine, data, engine.config, lambda *_: 0.0, lambda at, save: None, between=between)
    return waits


def test_a_training_waits_once_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(waits_of(device_engine(CONFIG), monkeypatch).lines) == 2
    monkeypatch.setattr(loop, "UNREAD_STEPS", 2)
    assert len(waits_of(device_engine(replace(CONFIG, validate_every=6)), monkeypatch).lines) == 3


def test_with_skips_a_training_waits_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(waits_of(device_engine(replace(CONFIG, skips=1)), monkeypatch).lines) >= CONFIG.steps


def test_a_gradient_that_is_not_finite_is_in_no_weight_and_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The device finds it in step 3; the host reads that when it saves after step 4."""
    engine, calls, done = device_engine(CONFIG), iter(range(9)), list[int]()
    backward = engine.backward

    def spoil(*batch: Any) -> Losses:
        losses = backward(*batch)
        if next(calls) == 3:
            engine.model.norm.weight.grad.fill_(float("inf"))  # type: ignore[union-attr]
        return losses

    def save_after_two_more(step: int, save: Save) -> None:
        done.append(step)
        if step == 5:
            save(tmp_path)

    engine.backward = spoil  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"step 3: loss \d.*, gradient norm inf, muon_lr"):
        waits_of(engine, monkeypatch, save_after_two_more)
    assert done == [1, 2, 4, 5] and not list(tmp_path.iterdir())
    assert all(on_host(weight).isfinite().all() for weight in engine.model.parameters())


class Operations(TorchDispatchMode):
    """The operations that run within it, with the shapes of their tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Hashable] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(x.shape) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.log.append((str(function), *shapes))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("sleep_on", ["prompts", "all"])
@settings(max_examples=6)
@given(seed=st.integers(0, 2**16), traced=st.booleans())
def test_plans_of_equal_shape_run_the_same_operations(sleep_on: str, seed: int, traced: bool) -> None:
    """The same rows in another order, with other tokens, and the plan of either of them moved into the place of the
    other, as into the buffers of a CUDA graph."""
    make = torch.Generator().manual_seed(seed)
    model = build_small(sleep_on=sleep_on, eviction="sliding", mixers=("attention", "gated_delta"), sleep_passes=2)
    model.truncation = Truncation(windows=2)
    tokens, mask = mixed(sleep_on)
    labels = torch.randint(-3, 5, (len(tokens), 2, tokens.shape[1]), generator=make) if traced else None
    order = torch.randperm(len(tokens), generator=make)
    others = torch.where(tokens < 0, PAD, torch.randint(0, 5, tokens.shape, generator=make))[order]
    batches = (tokens, mask, None, labels), (others, mask[order], None, None if labels is None else labels[order])
    plans = [model.plan(*batch) for batch in batches]
    assert plans[0].shape == plans[1].shape and hash(plans[0].shape) == hash(plans[1].shape)
    logs, outputs = [], []
    for batch, plan in zip(batches, plans, strict=True):
        model.zero_grad()
        with Operations() as operations:
            out = model(*batch, plan=plan)
            (out.loss + (0.0 if out.trace_loss is None else out.trace_loss)).backward()
        logs.append(operations.log)
        outputs.append(out)
    assert len(logs[0]) == len(logs[1]) > 1000
    assert next((pair for pair in zip(*logs, strict=True) if pair[0] != pair[1]), None) is None
    data = packed(plans[0])
    static = unpacked(plans[0], data)
    data.copy_(packed(plans[1]))
    again = model(*batches[0], plan=static)
    assert torch.equal(again.logits, outputs[1].logits) and torch.equal(again.loss, outputs[1].loss)


def test_a_shape_tells_apart_what_runs_differently() -> None:
    model, (tokens, mask) = build_small(sleep_passes=2), mixed("prompts")
    shorter, cut = mask.clone(), build_small(sleep_passes=2)
    shorter[0, 15] = False
    cut.truncation = Truncation(windows=1)
    whole, answers = rows(0, batch=5, tokens=33)
    padded = whole.clone()
    padded[4, 0] = PAD
    labels = torch.full((len(tokens), 1, tokens.shape[1]), 3)
    plans = [model.plan(tokens, mask), model.plan(tokens, mask, 3), model.plan(tokens, shorter), cut.plan(tokens, mask)]
    plans += [
        model.plan(whole, answers),
        model.plan(padded, answers),
        model.plan(tokens, mask, None, labels),
        model.plan(tokens[:3], mask[:3]),
    ]
    assert len({plan.shape for plan in plans}) == len(plans)


SESSIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({}, {}),
    "sampled": ({}, {"temperature": 0.8, "top_p": 0.9}),
    "stopping": ({}, {"stop": (3,)}),
    "sliding": ({"eviction": "sliding", "mixers": EVERY_MIXER, "conv": 3}, {"stop": (3,)}),
    "token": ({"carry": "token", "loop": (0, 1)}, {}),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_waits_once_a_token(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows whose windows are full at different tokens, and which stop at different ones. What it says and ends with is
    what a session on a CPU says."""
    fields, options = SESSIONS[name]
    model = build_small(dtype=torch.float32, sleep_passes=2, **fields)
    sessions = [Session(model, 3)]
    with counted_waits(monkeypatch) as waits:
        other = build_small(dtype=torch.float32, sleep_passes=2, **fields)
        on_device(other)
        sessions.append(Session(other, 3))
        prompt = torch.tensor([[1, 2, 3, 4, PAD], [2, PAD, PAD, PAD, PAD], [PAD, 0, 1, 4, 2]])
        logits = [session.read(prompt) for session in sessions]
        assert waits.lines == []
        said = []
        for session in sessions:
            torch.manual_seed(0)
            said.append(session.generate(9, **options))
    assert len(waits.lines) == 9, waits.lines
    torch.testing.assert_close(on_host(logits[1]), logits[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(on_host(said[1]), said[0])
    assert sessions[1].sleeps.tolist() == sessions[0].sleeps.tolist() and int(sessions[0].sleeps.sum()) > 1


class ClockEvent:
    """A CUDA event of a device that takes a second for all that it is given."""

    now, read = 0, 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        ClockEvent.now += 1
        self.at = ClockEvent.now

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        ClockEvent.read += 1

    def elapsed_time(self, end: "ClockEvent") -> float:
        return 1e3 * (end.at - self.at)


def test_sleeps_are_timed_by_the_gpu_and_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", ClockEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    watch = Stopwatch(torch.device("cuda"))
    for _ in range(3):
        with watch.running():
            pass
    assert ClockEvent.read == 0
    assert watch.seconds == watch.seconds == 3.0 and ClockEvent.read == 3
