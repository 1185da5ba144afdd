"""Presets build, price themselves and take a step; overrides that make no sense are refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.overrides import OverrideError, apply_overrides
from pipelines.presets import PRESETS, Arm, Pipeline
from pipelines.pricing import training_flops
from sleepmodel.training import LocalEngine, build_model


@pytest.mark.parametrize("pipeline", PRESETS.values(), ids=PRESETS)
def test_every_preset_runs_its_first_step(pipeline: Pipeline) -> None:
    for arm in pipeline.arms:
        train = replace(pipeline.train, batch_size=2)
        engine = LocalEngine(build_model(pipeline.arm_model(arm), train), train)
        rows = pipeline.arm_task(arm).sample("train", 0, 0, 2)
        loss = engine.backward(torch.from_numpy(rows.tokens.astype(np.int64)), torch.from_numpy(rows.loss_mask()))
        assert np.isfinite(engine.step(1.0)) and torch.isfinite(loss)
    assert training_flops(pipeline) > 0


def test_fig2_is_the_papers() -> None:
    """Four states of 24 cells, width 256, 4 blocks, batch 512, about 5 billion tokens (paper, experiment 1)."""
    fig2b = PRESETS["rule110-fig2b"]
    assert (fig2b.task.cells, fig2b.task.states, fig2b.task.steps) == (24, 4, 32)
    assert (fig2b.model.d_model, len(fig2b.model.mixers), fig2b.model.window) == (256, 4, 24)
    assert (fig2b.train.batch_size, fig2b.train.muon_lr, fig2b.train.adam_lr) == (512, 2e-3, 5e-5)
    assert fig2b.train.steps * 512 * fig2b.task.row_length == pytest.approx(5e9, rel=1e-4)
    assert [arm.sleep_passes for arm in fig2b.arms] == [1, 2, 3, 4]
    assert [task.steps for task in PRESETS["rule110-fig2a"].tasks()] == [4, 8, 12, 16]


def test_the_same_compute_is_the_same_flops() -> None:
    demo = PRESETS["demo"]
    more = Arm(name="more", compute_of=4)
    spent = demo.arm_steps(more) * demo.step_flops(demo.arm_model(more))
    assert spent == pytest.approx(demo.train.steps * demo.step_flops(replace(demo.model, sleep_passes=4)), rel=1e-3)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.steps=abc", r"train\.steps=abc: must be an integer"),
        ("train.stepz=3", "no field 'stepz'.*did you mean 'steps'"),
        ("model.sleep_passes=0", r"model\.sleep_passes = 0: must be an integer of at least 1"),
        ("model.fast_weight_lr=3", r"model\.fast_weight_lr = 3.*: must be a number in \(0, 2\]"),
        ("model.window=10", r"model\.window = 10: must be a divisor of the task's context of 16 tokens"),
        ("model.sleep_passes=4", r"model\.sleep_passes = 4: must be 1: the preset's lines and its search set it"),
        ("data.seed=-1", r"data\.seed = -1: must be an integer of at least 0"),
        ("model.window=1", r"model\.window = 1: must be an integer of at least 2"),
        ("task.cells=30", r"model\.window = 16: must be a divisor of the task's context of 30 tokens"),
        ("model.max_positions=17", r"model\.max_positions = 17: must be at least the task's row length 18"),
        ("model.vocab_size=4", r"model\.vocab_size = 4: must be 3, the task's"),
        ("seeds=[1, 1]", r"seeds = \(1, 1\): must be at least one seed, all different"),
        ("search.eta_high=2.5", r"search\.eta_high = 2\.5: must be a number in \(0, 2\]"),
        ("scale.workers=3", r"batch_size = 128: must be a multiple of workers \* accumulation = 3"),
        ("data.train_rows=5", r"data\.train_rows = 5: must be at least one batch of 128"),
    ],
)
def test_an_override_without_meaning_is_refused_by_name(assignment: str, message: str) -> None:
    with pytest.raises(OverrideError, match=message):
        apply_overrides(PRESETS["demo"], [assignment])
