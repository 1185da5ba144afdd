"""What a pipeline would take on this machine, from a measured training step."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from pipelines.pipeline import Pipeline
from sleepmodel.training import LocalEngine, build_model

PAPER_PROBE_ROWS = 8


@dataclass(frozen=True)
class Price:
    """What a pipeline's trainings read and compute at most. tokens: of longest rows; flops: as Pipeline.step_flops."""

    rows: int
    tokens: int
    flops: float


def price(pipeline: Pipeline) -> Price:
    """Of every line on every seed; with a search also of its trials, to their end at its largest N, and its winner."""
    steps = [(pipeline.arm_model(arm), arm.drawn_passes, pipeline.arm_steps(arm)) for arm in pipeline.arms]
    runs = steps * len(pipeline.seeds)
    if pipeline.search:
        widest = replace(pipeline.model, sleep_passes=max(pipeline.search.sleep_passes))
        runs += [(widest, (), pipeline.train.steps)] * (pipeline.search.trials + len(pipeline.seeds))
        runs += [(pipeline.model, (), pipeline.train.steps)] * len(pipeline.seeds)
    rows = pipeline.train.batch_size * sum(count for _, _, count in runs)
    # many runs share a model
    cost = {(model, drawn): pipeline.step_flops(model, drawn) for model, drawn, _ in runs}
    flops = sum(cost[model, drawn] * count for model, drawn, count in runs)
    return Price(rows, rows * pipeline.task.row_length, flops)


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
    return price(pipeline).flops * (time.monotonic() - start) / flops
