"""Measure training on one GPU: tokens/s, MFU, and minutes for the 5 billion tokens of the paper's figure 2b.

    python -m benchmarks.gpu [--batch 512] [--rounds 10]

It needs torch and numpy alone. A step is the forward, the backward and the optimiser in bfloat16, with the architecture
and the rows of `rule110-fig2b`, eager and under torch.compile. Writes benchmarks/results/gpu.json. To try the script
without a GPU, use `--device cpu --batch 2 --rounds 1`, which writes nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.results_file import write_result
from pipelines.arguments import positive
from pipelines.config.presets import PRESETS
from sleepmodel import SleepModel
from sleepmodel.accounting import flops
from sleepmodel.ops import gated_delta
from sleepmodel.training.engine import LocalEngine

PRESET = PRESETS["rule110-fig2b"]
PASSES = (1, 2, 3, 4)
FORMS = {"eager": False, "compiled": True}
MATMUL_SIZE = {"cuda": 8192, "cpu": 1024}
TOKENS = 5_000_000_000
WARMUP = 3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to train")
    parser.add_argument("--batch", type=positive, default=PRESET.train.batch_size, help="rows in a step")
    parser.add_argument("--rounds", type=positive, default=10, help="timed steps of each N, eager and compiled")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "--device cuda: no CUDA device here; run this on a GPU machine, or try --device cpu --batch 2 --rounds 1"
        )
    device = torch.device(given.device)
    peak = matmul_peak(device)
    forms = FORMS if device.type == "cuda" else {"eager": False}
    print(f"{name_of(device)}, bfloat16, {given.batch} rows in a step")
    print(f"{'form':<10}{'N':>3}{'tokens/s':>14}{'MFU':>8}{'GB':>8}{'minutes to 5e9 tokens':>24}")
    payload: dict[str, Any] = {
        "device": name_of(device),
        "batch": given.batch,
        "rounds": given.rounds,
        "matmul_peak_flops": peak,
        "kernel": "fla" if gated_delta.HAS_FLA else "torch",
        "rows": [],
    }
    for name, compiled in forms.items():
        for row in measure(device, given.batch, given.rounds, name, compiled):
            row["mfu"] = row["flops_per_second"] / peak
            minutes = TOKENS / row["tokens_per_second"] / 60
            speed = f"{row['tokens_per_second']:>14,.0f}{row['mfu']:>8.1%}"
            print(f"{row['form']:<10}{row['passes']:>3}{speed}{row['peak_bytes'] / 1e9:>8.2f}{minutes:>24,.0f}")
            payload["rows"].append(row)
        # write after each form: the next one may fail to compile or run out of memory
        if device.type == "cuda":
            print(write_result("gpu", payload))


def measure(device: torch.device, batch: int, rounds: int, form: str, compiled: bool) -> list[dict[str, Any]]:
    """The median step of each N, with its rates and its peak memory in bytes. The values of N take turns, so that a
    change of the clock rate affects all of them."""
    tokens, mask = map(torch.from_numpy, PRESET.task.sample("train", 0, 0, batch).batch())
    train = replace(PRESET.train, precision="bfloat16", batch_size=batch)
    engines, seconds, peaks = {}, {n: [] for n in PASSES}, dict.fromkeys(PASSES, 0)
    for n in PASSES:
        torch.manual_seed(0)
        model = SleepModel(replace(PRESET.model, sleep_passes=n)).to(device)
        if compiled:
            for block in model.stack:
                block.compile()
        engines[n] = LocalEngine(model, train)
    for turn in range(WARMUP + rounds):
        for n, engine in engines.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            took = timed(device, lambda: step(engine, tokens, mask))  # noqa: B023
            if turn >= WARMUP:
                seconds[n].append(took)
                peaks[n] = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return [
        {
            "form": form,
            "passes": n,
            "seconds": statistics.median(seconds[n]),
            "tokens_per_second": tokens.numel() / statistics.median(seconds[n]),
            "flops_per_second": 3 * batch * flops(engine.model, tokens.shape[1]) / statistics.median(seconds[n]),
            "peak_bytes": peaks[n],
        }
        for n, engine in engines.items()
    ]


def step(engine: LocalEngine, tokens: Tensor, mask: Tensor) -> None:
    engine.backward(tokens, mask)
    engine.step(1.0)


def matmul_peak(device: torch.device, rounds: int = 10) -> float:
    """FLOP/s of a large bfloat16 matmul on this device, measured. MFU is relative to it."""
    size = MATMUL_SIZE[device.type]
    a, b = torch.randn(2, size, size, dtype=torch.bfloat16, device=device)
    took = [timed(device, lambda: a @ b) for _ in range(WARMUP + rounds)][WARMUP:]
    return 2 * size**3 / statistics.median(took)


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds until the device has finished `work`."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    main()
