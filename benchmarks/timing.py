"""Time contestants in turns, round by round, so that a drift of the machine's speed affects all of them alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from sleepmodel.inference.stopwatch import seconds_of

Seconds = dict[str, list[float]]
MATMUL_SIZE = 2048
MATMUL_FLOPS = 2 * MATMUL_SIZE**3


LEAST_ROUNDS = 3


def interleaved(
    contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2, limit: float = math.inf
) -> Seconds:
    """The seconds of each round for each contestant, without the warm-up rounds. limit: seconds after which no more
    than LEAST_ROUNDS are timed."""
    seconds: Seconds = {name: [] for name in contestants}
    begin = time.perf_counter()
    for turn in range(warmup + rounds):
        if turn >= warmup + LEAST_ROUNDS and time.perf_counter() - begin > limit:
            break
        for name, call in contestants.items():
            taken = seconds_of(call)
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds


def median_ratio(seconds: Seconds, numerator: str, denominator: str) -> float:
    """The median over rounds of one contestant's time over another's in the same round."""
    pairs = zip(seconds[numerator], seconds[denominator], strict=True)
    return statistics.median(a / b for a, b in pairs)


def matmul(dtype: torch.dtype = torch.float32) -> Callable[[], object]:
    """A contestant that computes one matmul of MATMUL_FLOPS: an upper bound for the FLOP/s of a model."""
    a, b = torch.randn(2, MATMUL_SIZE, MATMUL_SIZE, dtype=dtype)
    return lambda: a @ b
