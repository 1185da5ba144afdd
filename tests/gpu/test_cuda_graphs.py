"""A batch whose shape has come before is replayed: with its own tokens, and with the same losses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from datagen import Rule110
from sleepmodel.batch_plan import BatchPlan
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Scale, TrainConfig
from sleepmodel.model import SleepModel
from sleepmodel.training import cuda_graphs
from sleepmodel.training.cuda_graphs import GraphedModel, GraphedUpdate, graphed
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.optim import schedule

TASK = Rule110(cells=8, states=2, steps=2)
MODEL = ModelConfig(
    vocab_size=3, d_model=32, n_heads=2, mixers=("attention", "gated_delta"), window=8, fast_heads=2, key_dim=16,
    value_dim=16, sleep_passes=2,
)  # fmt: skip
CONFIG = TrainConfig(steps=8, batch_size=4, warmup_steps=4)
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}  # relative, of losses and gradient norms


def batch(number: int, rows: int = 4) -> tuple[Tensor, Tensor]:
    tokens, mask = TASK.sample("train", 0, number, rows).batch()
    return torch.from_numpy(tokens), torch.from_numpy(mask)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is captured. Without a GPU, a graph is the function that it would be made of."""
    found: list[Any] = []

    def capture(function: Any, inputs: tuple[Tensor], **settings: object) -> Any:
        found.append(function)
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return found


def losses(graphed: GraphedModel, plans: list[BatchPlan]) -> list[float]:
    return [graphed(None, None, plan=plan).loss.item() for plan in plans]


def test_a_shape_is_captured_when_it_comes_again_and_then_replayed(captures: list[Any]) -> None:
    model = SleepModel(MODEL)
    plans = [model.plan(*batch(number)) for number in range(4)]
    graphed = GraphedModel(model, model, autocast=False)
    assert losses(graphed, plans) == [model(*batch(number)).loss.item() for number in range(4)]
    assert len(captures) == 1
    losses(graphed, [model.plan(*batch(0, rows=3))])
    assert len(captures) == 1


def test_shapes_beyond_the_limit_are_not_captured(captures: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    model = SleepModel(MODEL)
    graphed = GraphedModel(model, model, autocast=False)
    for rows in (1, 2, 3):
        losses(graphed, [model.plan(*batch(number, rows)) for number in range(3)])
    assert len(captures) == 2


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        ({"gpu": False}, "only a GPU has CUDA graphs, and gpu = false"),
        ({"zero_stage": 1}, "with zero_stage = 1"),
        ({"recompute": "pass"}, "with recompute = pass"),
        ({"accumulation": 2}, "with accumulation > 1"),
    ],
)
def test_graphs_are_refused_where_they_would_be_wrong(scale: dict[str, Any], reason: str) -> None:
    assert str(Scale(**scale).no_cuda_graphs).startswith(reason)
    with pytest.raises(ValueError, match=f"cuda_graphs = 'on': must be auto or off: {reason}"):
        Scale(cuda_graphs="on", **scale)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bfloat16_weights"])
@pytest.mark.parametrize("choice", ["auto", "on", "off"])
def test_a_gpu_has_them_unless_something_speaks_against_it(choice: Any, precision: Any, captures: list[Any]) -> None:
    """What either engine is told: by what to call the model."""
    model = cast(
        SleepModel, SimpleNamespace(embed=SimpleNamespace(weight=SimpleNamespace(device=torch.device("cuda"))))
    )
    forward = SleepModel(MODEL)
    config = replace(CONFIG, precision=precision)
    found = graphed(model, forward, config, Scale(cuda_graphs=choice))
    if choice == "off":
        assert found is forward
    else:
        assert isinstance(found, GraphedModel) and (found.model, found.forward) == (model, forward)
        assert found.autocast == (precision == "bfloat16")
    for against in ({"zero_stage": 1}, {"accumulation": 2}, {"recompute": "pass"}):
        assert graphed(model, forward, config, Scale(**against)) is forward  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_cpu_has_none() -> None:
    with pytest.raises(ValueError, match="cuda_graphs = 'on': must be auto or off: only a GPU has them"):
        LocalEngine(SleepModel(MODEL), CONFIG, cuda_graphs="on")
    LocalEngine(SleepModel(MODEL), CONFIG, cuda_graphs="auto")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("choice", ["on", "step"])
def test_a_training_with_graphs_learns_the_same(choice: Any, compiled: bool, precision: Any) -> None:
    """Losses and gradient norms of steps that are replayed are those of steps that are not."""

    def curve(graphs: Any) -> list[tuple[float, float]]:
        torch.manual_seed(0)
        model = SleepModel(MODEL).cuda()
        for block in model.stack if compiled else ():
            block.compile()
        engine = LocalEngine(model, replace(CONFIG, precision=precision), cuda_graphs=graphs)
        found = []
        for number in range(CONFIG.steps):
            answers = engine.backward(*batch(number)).answers
            found.append((float(answers), float(engine.step(schedule(number, CONFIG)))))
        if graphs != "off":
            assert isinstance(engine.forward, GraphedModel) and len(engine.forward.graphs) == 1
        if graphs == "step":
            assert isinstance(engine.update, GraphedUpdate) and len(engine.update.graphs) == 1
        return found

    torch.testing.assert_close(curve(choice), curve("off"), rtol=TOLERANCE[precision], atol=1e-4)
