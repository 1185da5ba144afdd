"""The least memory that a training takes, before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from sleepmodel.config.training import BFLOAT16_WEIGHTS, Scale, TrainConfig
from sleepmodel.model import SleepModel
from sleepmodel.training.optim import split_parameters


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one worker. masters: the float32 weights that are updated in place of those the model computes with."""

    weights: int
    gradients: int
    masters: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.masters + self.optimizer + self.activations


def training_memory(model: SleepModel, train: TrainConfig, scale: Scale, tokens: int) -> TrainingMemory:
    """A lower bound of what each worker takes; DeepSpeed's buffers and temporary tensors come on top.

    model: frozen as it is trained (see `freeze`); it may be on the meta device. tokens: of the longest row. Activations
    are the inputs of the blocks in the last pass of a sleep on one window of one row: every form of `recompute` keeps
    these.
    """
    muon, adam = (sum(weight.numel() for weight in part) for part in split_parameters(model, train.optimizer))
    every, trained = sum(weight.numel() for weight in model.parameters()), muon + adam
    low, stage = train.precision == BFLOAT16_WEIGHTS, scale.zero_stage
    size = 2 if low else 4
    # each ZeRO stage divides one more of these among the workers
    states, gradients, weights = (scale.workers if stage >= least else 1 for least in (1, 2, 3))
    return TrainingMemory(
        weights=size * every // weights,
        gradients=size * trained // gradients,
        masters=4 * trained // states if low or stage > 0 else 0,
        optimizer=4 * (muon + 2 * adam) // states,
        activations=size * _kept_inputs(model, train, tokens),
    )


def _kept_inputs(model: SleepModel, train: TrainConfig, tokens: int) -> int:
    config = model.config
    learning = [i for i, block in enumerate(model.stack) if any(weight.requires_grad for weight in block.parameters())]
    schedule = model.sleep_schedule(2)  # at N = 1 the last pass runs no fewer blocks
    slept_on = tokens > config.window and train.truncation.windows != 1
    if not (learning and schedule and slept_on):
        return 0
    return sum(i >= learning[0] for i in schedule[-1].blocks) * config.d_model * config.window
