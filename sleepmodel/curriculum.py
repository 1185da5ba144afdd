"""Which rows a step reads where training goes from easy to hard: levels that open one by one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from sleepmodel.config import Curriculum, TrainConfig


def levels_of(rows: Rows, curriculum: Curriculum) -> npt.NDArray[np.int64]:
    """The level of each row, int64 [n]. Raises ValueError where a row lies above all of them."""
    depths, of_row = np.unique(rows.depths, return_inverse=True)
    levels: npt.NDArray[np.int64] = np.array([curriculum.level(int(depth)) for depth in depths], np.int64)[of_row]
    return levels


class Levels:
    """The training rows by level. Raises ValueError where a level has fewer rows than a batch."""

    def __init__(self, rows: Rows, config: TrainConfig) -> None:
        self.curriculum, self.seed, self.batch_size = config.curriculum, config.seed, config.batch_size
        levels = levels_of(rows, config.curriculum)
        self.rows = {int(level): np.flatnonzero(levels == level) for level in np.unique(levels)}
        self.order = list(self.rows)
        for level, found in self.rows.items():
            if len(found) < config.batch_size:
                raise ValueError(
                    f"level {level} has {len(found)} training rows: must be at least batch_size = {config.batch_size}; "
                    "make more rows"
                )

    @property
    def first(self) -> int:
        """The deepest level that is open when training begins."""
        return self.order[-1] if self.curriculum.threshold is None else self.order[0]

    def after(self, level: int, accuracy: float) -> int:
        """The deepest open level, once `level` was validated with this accuracy."""
        deeper = self.order[self.order.index(level) + 1 :]
        threshold = self.curriculum.threshold
        return deeper[0] if deeper and threshold is not None and accuracy >= threshold else level

    def batch(self, step: int, level: int) -> tuple[np.ndarray, int]:
        """Row indices [batch_size] of a step, a function of (seed, step, deepest open level), and their own level."""
        stream = np.random.Generator(np.random.PCG64([self.seed, step, level, 2]))
        every = self.curriculum.review or self.curriculum.threshold is None
        chosen = int(stream.choice(self.order[: self.order.index(level) + 1])) if every else level
        return stream.choice(self.rows[chosen], self.batch_size, replace=False), chosen
