"""The levels of a curriculum: when each one opens, and its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from sleepmodel.config.training import Curriculum, TrainConfig
from sleepmodel.training.buckets import in_buckets

Int64 = npt.NDArray[np.int64]


def levels_of(rows: Rows, curriculum: Curriculum) -> npt.NDArray[np.int64]:
    """The level of each row, int64 [n]. Raises ValueError if a row is deeper than all levels."""
    depths, of_row = np.unique(rows.depths, return_inverse=True)
    levels: npt.NDArray[np.int64] = np.array([curriculum.level(int(depth)) for depth in depths], np.int64)[of_row]
    return levels


@dataclass(frozen=True)
class LevelSchedule:
    """The levels of a training, easiest first, and when they open."""

    levels: tuple[int, ...]
    threshold: float | None
    review: bool
    front: float

    @property
    def first(self) -> int:
        """The deepest level that is open at the start."""
        return self.levels[-1] if self.threshold is None else self.levels[0]

    def after(self, level: int, accuracy: float) -> int:
        """The deepest open level after `level` was validated with this accuracy."""
        deeper = self.levels[self.levels.index(level) + 1 :]
        return deeper[0] if deeper and self.threshold is not None and accuracy >= self.threshold else level

    def drawn(self, level: int, stream: np.random.Generator) -> int:
        """The level of a batch while `level` is the deepest open one."""
        every = self.review or self.threshold is None
        if not every or (self.front and stream.random() < self.front):
            return level
        return int(stream.choice(self.levels[: self.levels.index(level) + 1]))


class RowsByLevel:
    """The rows of a block, by level. buckets: of rows; None: batches have rows of any length."""

    def __init__(self, rows: Rows, config: TrainConfig, buckets: Callable[[Rows], Int64] | None = None) -> None:
        self.seed, self.batch_size = config.seed, config.batch_size
        levels = levels_of(rows, config.curriculum)
        self.rows = {int(level): np.flatnonzero(levels == level) for level in np.unique(levels)}
        self.buckets = None if buckets is None else buckets(rows)

    def schedule(self, curriculum: Curriculum) -> LevelSchedule:
        """The schedule of a training with these levels. Raises ValueError if a level has fewer rows than a batch."""
        for level, found in self.rows.items():
            if len(found) < self.batch_size:
                raise ValueError(
                    f"level {level} has {len(found)} rows in the first block of training rows: must be at least "
                    f"batch_size = {self.batch_size}; make more rows of that level"
                )
        return LevelSchedule(tuple(self.rows), curriculum.threshold, curriculum.review, curriculum.front)

    def stream(self, step: int, level: int) -> np.random.Generator:
        """What the level and the rows of a step are drawn from. level: the deepest open one."""
        return np.random.Generator(np.random.PCG64([self.seed, step, level, 2]))

    def batch(self, level: int, stream: np.random.Generator) -> Int64:
        """Row indices of a batch of a level, int64 [batch_size]. The block must have rows of the level.

        Each row of the level is as likely as any other. With buckets, the rows are those of one batch of `in_buckets`.
        If the block has fewer rows of the level than a batch, they are drawn with replacement, from all buckets.
        """
        found, size = self.rows[level], self.batch_size
        if self.buckets is not None and len(found) >= size:
            whole = stream.permutation(found)[: len(found) // size * size]
            return in_buckets(whole, self.buckets, size, stream)[:size]
        return stream.choice(found, size, replace=len(found) < size)
