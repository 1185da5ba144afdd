"""Random integers, choices and permutations that are the same in every NumPy version.

They are computed from the raw words of a bit generator; NumPy may change the distributions of Generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

BATCH = 1024  # words fetched at once; has no effect on the results


class Rng:
    """A random number generator on the words of a bit generator; every number takes one word."""

    def __init__(self, stream: np.random.Philox) -> None:
        self._word = _words(stream).__next__

    def below(self, n: int) -> int:
        """Uniform in 0..n-1, with a bias below n / 2**64."""
        return self._word() * n >> 64

    def between(self, low: int, high: int) -> int:
        """Uniform in low..high, inclusive."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """A uniformly random permutation of the items (Fisher-Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


def _words(stream: np.random.Philox) -> Iterator[int]:
    while True:
        yield from np.asarray(stream.random_raw(BATCH)).tolist()
