"""Tokens/s of the whole model, forward + backward, for N = 1, 2, 4, and its share of the machine's matmul peak."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_result
from benchmarks.timing import interleaved, matmul_peak, median_ratio
from pipelines.presets import PRESETS, Pipeline
from sleepmodel import SleepModel
from sleepmodel.allocator import keep_freed_memory

PASSES = (1, 2, 4)
BATCH = 128
MODELS = {64: "demo", 256: "rule110-fig2b"}
ROUNDS = 7


def main() -> None:
    keep_freed_memory()
    peak = matmul_peak()
    rows = [row for preset in MODELS.values() for row in measure(PRESETS[preset], peak)]
    table = Table(
        "width", "N", "tokens/s", "time over N = 1", "share of matmul peak", title=f"peak {peak / 1e9:.0f} GFLOP/s"
    )
    for row in rows:
        cells = (row["width"], row["passes"], f"{row['tokens_per_second']:,.0f}", f"{row['time_over_n1']:.2f}")
        table.add_row(*map(str, cells), f"{row['share_of_peak']:.0%}")
    Console().print(table)
    payload = {"threads": torch.get_num_threads(), "batch": BATCH, "matmul_peak_flops": peak, "rows": rows}
    print(write_result("model", payload))


def measure(pipeline: Pipeline, peak: float) -> list[dict[str, float]]:
    """The preset's architecture on rows of its task at each N, in turn."""
    rows = pipeline.task.sample("train", 0, 0, BATCH)
    tokens, mask = torch.from_numpy(rows.tokens.astype(np.int64)), torch.from_numpy(rows.loss_mask())
    models = {passes: SleepModel(replace(pipeline.model, sleep_passes=passes)) for passes in PASSES}

    def step(model: SleepModel) -> Callable[[], object]:
        return lambda: torch.autograd.grad(model(tokens, mask).loss, list(model.parameters()), allow_unused=True)

    seconds = interleaved({str(passes): step(model) for passes, model in models.items()}, ROUNDS)
    return [
        {
            "width": pipeline.model.d_model,
            "passes": passes,
            "tokens_per_second": tokens.numel() / statistics.median(seconds[str(passes)]),
            "time_over_n1": median_ratio(seconds, str(passes), "1"),
            "share_of_peak": 3 * BATCH * model.flops(tokens.shape[1]) / statistics.median(seconds[str(passes)]) / peak,
        }
        for passes, model in models.items()
    ]


if __name__ == "__main__":
    main()
