"""Count the shapes of batches and their pads, with and without buckets of length (train.bucket_tokens).

    python -m benchmarks.buckets

Batches are those of trainings of four presets, on the rows that the task writes first. Nothing is trained and no GPU is
needed: a batch is replayed on a GPU if its shape has come before, up to 16 of them. Writes
benchmarks/results/buckets.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console

from benchmarks.arguments import command_parser
from benchmarks.results_file import write_result
from datagen.blocks import Blocks
from datagen.rows import Rows
from pipelines.config.presets import PRESETS
from sleepmodel.batch_plan import BatchPlan, plan_batch
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import TrainConfig
from sleepmodel.training.batches import BatchSampler, Prefetcher
from sleepmodel.training.buckets import buckets_of
from sleepmodel.training.cuda_graphs import MOST_GRAPHS
from sleepmodel.training.plan_filling import filled

# preset: rows of its training data, batch size, batches, values of train.bucket_tokens besides null
CASES: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    "gsm-fig4-mini": (8192, 32, 1000, (8, 16, 32, 64)),
    "depo-fig3-mini": (16_384, 64, 1000, (1, 4, 8, 24)),
    "depo-fig3": (16_384, 128, 1000, (8, 25, 75)),
    "gsm-fig4-scratch": (4096, 64, 300, (64, 128, 256)),
}


def main() -> None:
    console, results = Console(), list[dict[str, Any]]()
    for name, (count, batch_size, steps, widths) in CASES.items():
        preset = PRESETS[name]
        rows = preset.task.sample("train", preset.data.seed, 0, count)
        config = replace(preset.train, batch_size=batch_size, steps=steps)
        for width in (None, *widths):
            found = measure(rows, preset.model, replace(config, bucket_tokens=width))
            results.append({"preset": name, "rows": count, "batch_size": batch_size, "bucket_tokens": width, **found})
            console.print(results[-1])
    console.print(f"written to {write_result('buckets', {'results': results})}")


def measure(rows: Rows, model: ModelConfig, config: TrainConfig) -> dict[str, Any]:
    """Shapes of the batches, the batches that are replayed, and the share of computed tokens that are pads."""
    width, shapes, replayed = config.bucket_tokens, Counter[Hashable](), 0
    buckets = None if width is None else partial(buckets_of, model=model, tokens=width)
    captured, computed = set[Hashable](), Counter[str]()
    with Prefetcher(Blocks.of(rows)) as reader:
        sampler = BatchSampler(reader, config, buckets)
        batches = [sampler.batch(step)[0] for step in range(config.steps)]
    for batch in batches:
        tokens, mask = map(torch.from_numpy, batch.batch())
        on_cpu = plan_batch(tokens, mask, model, model.sleep_passes)
        on_gpu = on_cpu if width is None else filled(on_cpu, model.window, width)
        shape = hash(on_gpu.shape)
        if shape in shapes and len(captured) < MOST_GRAPHS:
            captured.add(shape)
        replayed += shape in captured
        shapes[shape] += 1
        (cpu, real), (gpu, _) = _tokens(on_cpu), _tokens(on_gpu)
        computed += Counter(real=real, cpu=cpu, gpu=gpu)
    return {
        "steps": config.steps,
        "shapes": len(shapes),
        "replayed": replayed,
        "pads": 1 - computed["real"] / computed["cpu"],
        "pads_on_gpu": 1 - computed["real"] / computed["gpu"],
    }


def _tokens(plan: BatchPlan) -> tuple[int, int]:
    """The tokens that a pass over each window of a batch computes, and those that are not pads."""
    computed = real = 0
    for window in plan.windows:
        for group in window.groups:
            own = (len(window.tokens) if group.rows is None else len(group.rows)) * group.span.place.shape[1]
            computed += own
            real += own if group.span.real is None else int(group.span.real.sum())
    return computed, real


if __name__ == "__main__":
    command_parser("buckets", __doc__).parse_args()
    main()
