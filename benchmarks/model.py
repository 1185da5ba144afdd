"""Tokens/s of the whole model, forward + backward, for N = 1, 2, 4, and its share of the machine's matmul peak."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_result
from benchmarks.timing import MATMUL_FLOPS, interleaved, matmul, median_ratio
from pipelines.presets import PRESETS, Pipeline
from sleepmodel import SleepModel
from sleepmodel.allocator import keep_freed_memory

PASSES = (1, 2, 4)
BATCH = 128
MODELS = {64: "demo", 256: "rule110-fig2b"}
ROUNDS = 7
MATMUL = "matmul"


def main() -> None:
    keep_freed_memory()
    rows = [row for preset in MODELS.values() for row in measure(PRESETS[preset])]
    table = Table("width", "N", "tokens/s", "time over N = 1", "matmul GFLOP/s", "share of it")
    for row in rows:
        cells = (row["width"], row["passes"], f"{row['tokens_per_second']:,.0f}", f"{row['time_over_n1']:.2f}")
        table.add_row(*map(str, cells), f"{row['matmul_peak_flops'] / 1e9:.0f}", f"{row['share_of_peak']:.0%}")
    Console().print(table)
    payload = {"threads": torch.get_num_threads(), "batch": BATCH, "rounds": ROUNDS, "rows": rows}
    print(write_result("model", payload))


def measure(pipeline: Pipeline) -> list[dict[str, float]]:
    """The preset's architecture, in float32, on rows of its task at each N, and a large matmul, in turn."""
    rows = pipeline.task.sample("train", 0, 0, BATCH)
    tokens, mask = map(torch.from_numpy, rows.batch())
    models = {passes: SleepModel(replace(pipeline.model, sleep_passes=passes)) for passes in PASSES}

    def step(model: SleepModel) -> Callable[[], object]:
        return lambda: torch.autograd.grad(model(tokens, mask).loss, list(model.parameters()), allow_unused=True)

    contestants = {str(passes): step(model) for passes, model in models.items()} | {MATMUL: matmul()}
    seconds = interleaved(contestants, ROUNDS, warmup=1)
    return [
        {
            "width": pipeline.model.d_model,
            "passes": passes,
            "tokens_per_second": tokens.numel() / statistics.median(seconds[str(passes)]),
            "time_over_n1": median_ratio(seconds, str(passes), "1"),
            "share_of_peak": _step_flops(model, tokens) / MATMUL_FLOPS * median_ratio(seconds, MATMUL, str(passes)),
            "matmul_peak_flops": MATMUL_FLOPS / statistics.median(seconds[MATMUL]),
        }
        for passes, model in models.items()
    ]


def _step_flops(model: SleepModel, tokens: torch.Tensor) -> int:
    """Forward + backward, which costs two forwards, of a batch [B, T]."""
    return 3 * tokens.shape[0] * model.flops(tokens.shape[1])


if __name__ == "__main__":
    main()
