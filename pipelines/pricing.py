"""What a pipeline would take on this machine, from a measured training step."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from pipelines.presets import Pipeline
from sleepmodel.training import LocalEngine, build_model

PROBE_ROWS = 8


def training_flops(pipeline: Pipeline) -> float:
    """FLOPs of all of the pipeline's baselines, over their seeds."""
    runs = ((pipeline.arm_model(arm), pipeline.arm_steps(arm)) for arm in pipeline.arms)
    return float(sum(pipeline.step_flops(model) * steps for model, steps in runs)) * len(pipeline.seeds)


def training_seconds(pipeline: Pipeline) -> float:
    """Seconds that these would take here on the CPU, at the rate of one step of a few rows that is run and timed."""
    probe = replace(pipeline.train, batch_size=PROBE_ROWS, precision="float32")
    engine = LocalEngine(build_model(pipeline.model, probe), probe)
    task = pipeline.task
    rows = task.sample("train", 0, 0, PROBE_ROWS)
    tokens, mask = map(torch.from_numpy, rows.batch())
    engine.backward(tokens, mask)
    start = time.monotonic()
    engine.backward(tokens, mask)
    flops = pipeline.step_flops(pipeline.model) * PROBE_ROWS / pipeline.train.batch_size
    return training_flops(pipeline) * (time.monotonic() - start) / flops
