"""Time work on a device, without what the first calls compile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

# many CPUs emulate bfloat16, a hundred times slower than float32
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}
WARMUP, ROUNDS, CALLS = 3, 7, 5


def seconds(device: torch.device, work: Callable[[], object], rounds: int = ROUNDS, calls: int = CALLS) -> float:
    """The median over rounds of the seconds for one call of `work`, of `calls` in a row: on a GPU the host runs ahead,
    as it does in a training."""
    for _ in range(WARMUP):
        work()
    return statistics.median(_round(device, work, calls) for _ in range(rounds))


def _round(device: torch.device, work: Callable[[], object], calls: int) -> float:
    finish(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    finish(device)
    return (time.perf_counter() - start) / calls


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize()
