"""What a pipeline would take on this machine, from a measured training step."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from pipelines.presets import Pipeline
from sleepmodel.training import LocalEngine, build_model

PAPER_PROBE_ROWS = 8


def training_flops(pipeline: Pipeline) -> float:
    """FLOPs of all of the pipeline's baselines, over their seeds."""
    steps = (
        pipeline.step_flops(pipeline.arm_model(arm), arm.drawn_passes) * pipeline.arm_steps(arm)
        for arm in pipeline.arms
    )
    return float(sum(steps)) * len(pipeline.seeds)


def training_seconds(pipeline: Pipeline) -> float:
    """Seconds that these would take here on the CPU, at the rate of one step at N = 1 that is run and timed: of the
    preset's batch, or of a few rows where it is of the paper's size."""
    batch = min(pipeline.train.batch_size, PAPER_PROBE_ROWS) if pipeline.paper_scale else pipeline.train.batch_size
    probe = replace(pipeline.train, batch_size=batch, rows=None, precision="float32")
    engine = LocalEngine(build_model(pipeline.model, probe), probe)
    task = pipeline.task
    rows = task.sample("train", 0, 0, batch)
    tokens, mask = map(torch.from_numpy, rows.batch())
    engine.backward(tokens, mask)
    start = time.monotonic()
    engine.backward(tokens, mask)
    flops = pipeline.step_flops(pipeline.model) * batch / pipeline.train.batch_size
    return training_flops(pipeline) * (time.monotonic() - start) / flops
