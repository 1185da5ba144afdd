"""Timing contestants side by side: round by round in turn, so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Seconds = dict[str, list[float]]


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> Seconds:
    """Seconds of each round of each contestant; the warm-up rounds are not counted."""
    seconds: Seconds = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(seconds: Seconds, numerator: str, denominator: str) -> float:
    """The median over rounds of one contestant's time over another's in the same round."""
    pairs = zip(seconds[numerator], seconds[denominator], strict=True)
    return statistics.median(a / b for a, b in pairs)


def matmul_peak(size: int = 2048, rounds: int = 7) -> float:
    """FLOP/s of a large float32 matrix product with the threads that torch has: what a model can at most reach."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = interleaved({"matmul": lambda: a @ b}, rounds)["matmul"]
    return 2 * size**3 / statistics.median(times)
