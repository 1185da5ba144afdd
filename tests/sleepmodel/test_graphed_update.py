"""The optimiser's step as a graph changes the weights as without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sleepmodel.config.training import Scale, TrainConfig
from sleepmodel.training import engine as engine_module
from sleepmodel.training.cuda_graphs import WARMUP, GraphedUpdate
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.optim import build_optimizer
from tests.sleepmodel.conftest import build_small, rows
from tests.sleepmodel.recorded_graph import RecordedGraph, recorded_graphs

__all__ = ["recorded_graphs"]
CONFIG = TrainConfig(steps=8, batch_size=3, grad_clip=0.5, weight_decay=0.1)
RATES = (0.1, 1.0, 0.7, 0.3, 1.0, 0.01, 0.5, 0.2)


@pytest.fixture(autouse=True)
def never_read(monkeypatch: pytest.MonkeyPatch, recorded_graphs: type[RecordedGraph]) -> None:
    """As on a GPU, no step depends on what the host has read."""
    monkeypatch.setattr(engine_module, "reads_every_step", lambda *_: False)


def engine_of(captured: bool) -> LocalEngine:
    engine = LocalEngine(build_small(dtype=torch.float32), CONFIG)
    engine.optimizer = build_optimizer(engine.model, CONFIG, capturable=True)  # as on a GPU
    engine.captured = captured
    engine.update = engine._update()
    return engine


def run(engine: LocalEngine, numbers: range, spoilt: tuple[int, ...] = (), idle: tuple[int, ...] = ()) -> list[Tensor]:
    """Norms of steps. spoilt: those with a gradient that is not finite; idle: with a weight that has none."""
    norms = []
    for number in numbers:
        engine.backward(*rows(number))
        if number in spoilt:
            engine.model.norm.weight.grad.fill_(float("nan"))  # type: ignore[union-attr]
        if number in idle:
            engine.model.embed.weight.grad = None
        norms.append(engine.step(RATES[number % len(RATES)]))
    return norms


def assert_same(got: LocalEngine, expected: LocalEngine) -> None:
    for a, b in zip(got.model.parameters(), expected.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_it_is_captured_once_and_replayed_with_other_rates(recorded_graphs: type[RecordedGraph]) -> None:
    """Each step with its own gradients and rate; the norms of earlier steps stay what they were."""
    captured, eager = engine_of(captured=True), engine_of(captured=False)
    calls = list[int]()
    assert isinstance(captured.update, GraphedUpdate)
    update = captured.update.update

    def counted() -> Tensor:
        calls.append(0)
        return update()

    captured.update.update = counted
    norms = run(captured, range(8))
    assert norms == run(eager, range(8)) and len(set(map(float, norms))) == 8
    assert_same(captured, eager)
    assert (len(calls), recorded_graphs.made) == (WARMUP + 1, 1)


def test_a_gradient_that_is_not_finite_becomes_zero_in_a_replay(recorded_graphs: type[RecordedGraph]) -> None:
    captured, eager = engine_of(captured=True), engine_of(captured=False)
    norms, expected = run(captured, range(8), spoilt=(5,)), run(eager, range(8), spoilt=(5,))
    assert [bool(norm.isnan()) for norm in norms] == [number == 5 for number in range(8)]
    assert norms[6:] == expected[6:] and all(weight.isfinite().all() for weight in captured.model.parameters())
    assert_same(captured, eager)
    assert recorded_graphs.made == 1


def test_a_weight_without_a_gradient_stays_as_it_is(recorded_graphs: type[RecordedGraph]) -> None:
    """As the embedding of later passes does in a batch of N = 1: it has a graph of its own."""
    captured, eager, idle = engine_of(captured=True), engine_of(captured=False), tuple(range(1, 16, 2))
    assert run(captured, range(15), idle=idle) == run(eager, range(15), idle=idle)
    before = captured.model.embed.weight.clone()
    assert run(captured, range(15, 16), idle=idle) == run(eager, range(15, 16), idle=idle)
    assert torch.equal(captured.model.embed.weight, before) and recorded_graphs.made == 2
    assert_same(captured, eager)


def test_a_checkpoint_is_restored_into_a_new_graph(recorded_graphs: type[RecordedGraph], tmp_path: Path) -> None:
    captured, eager = engine_of(captured=True), engine_of(captured=False)
    run(captured, range(5))
    captured.save(tmp_path, {})
    after = run(captured, range(5, 10))
    captured.load(tmp_path)
    assert run(captured, range(5, 10)) == after and recorded_graphs.made == 2
    run(eager, range(10))
    assert_same(captured, eager)


def test_what_reads_in_a_step_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(captured=True)
    monkeypatch.setattr(engine_module, "reads_every_step", lambda *_: True)
    with pytest.raises(RuntimeError, match=r"cuda_graphs = step: .* capturing: .*: set scale.cuda_graphs=on"):
        run(engine, range(5))


def test_it_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="cuda_graphs = 'step': must be auto or off: with recompute = pass"):
        Scale(cuda_graphs="step", recompute="pass")
    with pytest.raises(ValueError, match="cuda_graphs = 'step': must be auto or off: only a GPU has them"):
        LocalEngine(build_small(dtype=torch.float32), CONFIG, cuda_graphs="step")
    monkeypatch.setattr(engine_module, "graphed", lambda model, forward, *_: forward)  # as on a GPU
    assert isinstance(LocalEngine(build_small(dtype=torch.float32), CONFIG, cuda_graphs="step").update, GraphedUpdate)
    with pytest.raises(ValueError, match="cuda_graphs = 'step': must be auto, on or off with skips = 1"):
        LocalEngine(build_small(dtype=torch.float32), replace(CONFIG, skips=1), cuda_graphs="step")
    assert "DeepSpeed" in Scale(cuda_graphs="step").cuda_graphs_in_words
