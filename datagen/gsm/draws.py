"""Integers, choices and orders from raw random words, which numpy keeps the same in every version."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

BATCH = 1024  # words fetched at once; shapes no result


class Draws:
    """Reads the words of a bit generator one after the other."""

    def __init__(self, stream: np.random.Philox) -> None:
        self._word = _words(stream).__next__

    def below(self, n: int) -> int:
        """Uniform in 0..n-1, with a bias under n / 2**64."""
        return self._word() * n >> 64

    def between(self, low: int, high: int) -> int:
        """Uniform in low..high, both included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a uniform order (Fisher and Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.below(last + 1)
            result[last], result[other] = result[other], result[last]
        return result


def _words(stream: np.random.Philox) -> Iterator[int]:
    while True:
        yield from np.asarray(stream.random_raw(BATCH)).tolist()
