"""Time work on a device, without what the first calls compile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from sleepmodel.inference.stopwatch import wait_for

# some CPUs emulate bfloat16, up to 80 times slower than float32
PRECISION: dict[str, Literal["bfloat16", "float32"]] = {"cuda": "bfloat16", "cpu": "float32"}
DTYPE = {device: getattr(torch, precision) for device, precision in PRECISION.items()}
WARMUP, ROUNDS, CALLS = 3, 7, 5


def seconds(device: torch.device, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median over rounds of the seconds for one call of `work`, of several in a row: on a GPU the host runs ahead,
    as it does in a training. On a CPU, where the command is only tried: of one call, behind one to warm up."""
    warmup, rounds, calls = (WARMUP, rounds, CALLS) if device.type == "cuda" else (1, 1, 1)
    for _ in range(warmup):
        work()
    return statistics.median(_round(device, work, calls) for _ in range(rounds))


def _round(device: torch.device, work: Callable[[], object], calls: int) -> float:
    wait_for(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    wait_for(device)
    return (time.perf_counter() - start) / calls
