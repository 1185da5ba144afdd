"""Rows read one block at a time, so that a dataset need not fit in memory. Needs only NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datagen.rows import Rows


@dataclass(frozen=True)
class Blocks:
    """A split as a sequence of blocks. sizes: rows in each block; read(i): the rows of block i."""

    sizes: tuple[int, ...]
    read: Callable[[int], Rows]

    @classmethod
    def of(cls, rows: Rows) -> Blocks:
        """One block with all of `rows`, which are in memory already."""
        return cls((len(rows),), lambda block: rows)

    def __len__(self) -> int:
        return sum(self.sizes)

    def first(self, rows: int) -> Blocks:
        """The first `rows` rows, or all rows if there are fewer."""
        sizes, left = [], rows
        for size in self.sizes:
            if left > 0:
                sizes.append(min(size, left))
                left -= size
        return Blocks(tuple(sizes), lambda block: self.read(block)[: sizes[block]])
