"""The least memory of a training, against the tensors that one holds."""

from dataclasses import replace

import pytest
import torch

from sleepmodel import Scale, TrainConfig
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model
from sleepmodel.training.memory import training_memory
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

MIXED = replace(MODEL, mixers=("attention", "gated_delta", "attention"), inserted=(1,))


@pytest.mark.parametrize("trained", ["all", "inserted"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_is_what_a_plain_training_holds(optimizer: str, trained: str) -> None:
    config = replace(CONFIG, optimizer=optimizer, trained=trained)
    engine = LocalEngine(build_model(MIXED, config), config)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens, mask = map(torch.from_numpy, TASK.sample("train", 0, 0, 1).batch())
    needed = training_memory(engine.model, config, Scale(), tokens.shape[1])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.backward(tokens, mask)
    weights = list(engine.model.parameters())
    assert needed.weights == sum(weight.nbytes for weight in weights)
    assert needed.gradients == sum(weight.grad.nbytes for weight in weights if weight.grad is not None)
    assert 0 < needed.activations <= sum(kept.values())
    engine.step(1.0)
    states = [value for state in engine.optimizer.state.values() for value in state.values()]
    assert needed.optimizer == sum(state.nbytes for state in states if torch.is_tensor(state) and state.dim())
    assert needed.masters == 0


def test_zero_divides_it_among_the_workers() -> None:
    model = build_model(MIXED, CONFIG)

    def parts(stage: int, train: TrainConfig = CONFIG) -> tuple[int, ...]:
        found = training_memory(model, train, Scale(workers=2, zero_stage=stage), TASK.row_length)
        return found.weights, found.gradients, found.masters, found.optimizer

    weights, gradients, masters, optimizer = parts(0)
    assert masters == 0
    assert parts(1) == (weights, gradients, weights // 2, optimizer // 2)
    assert parts(2) == (weights, gradients // 2, weights // 2, optimizer // 2)
    assert parts(3) == (weights // 2, gradients // 2, weights // 2, optimizer // 2)
    low = replace(CONFIG, precision="bfloat16_weights")
    assert parts(0, low) == (weights // 2, gradients // 2, weights, optimizer)
