"""A task of your own: is the number of ones among some random bits odd?"""

from dataclasses import dataclass

import numpy as np

from datagen import Rows, Task
from datagen.checks import require_whole
from datagen.splits import draw_contexts
from datagen.task import random_stream


@dataclass(frozen=True)
class Parity(Task):
    """`bits` random bits, then `?`, then 1 where the number of ones is odd, else 0."""

    bits: int = 16

    def __post_init__(self) -> None:
        require_whole("bits", self.bits, 4, 1024)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("0", "1", "?")

    @property
    def context_length(self) -> int:
        return self.bits

    @property
    def row_length(self) -> int:
        return self.bits + 2

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        bits = draw_contexts(split, random_stream(self, split, seed, shard), rows, self.bits)
        query, odd = np.full((rows, 1), 2), bits.sum(axis=1, keepdims=True) % 2
        one = np.ones((rows, 1), dtype=np.int32)
        return Rows(
            tokens=np.concatenate([bits, query, odd], axis=1).astype(np.uint16),
            answer_start=one * (self.bits + 1),
            answer_length=one,
            answer_depth=one,
        )
