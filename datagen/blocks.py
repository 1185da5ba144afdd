"""Rows that are read a block at a time, each small enough for memory. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from datagen.rows import Rows


@dataclass(frozen=True)
class Blocks:
    """sizes: rows of each block; read: the rows of one, by its number."""

    sizes: tuple[int, ...]
    read: Callable[[int], Rows]

    @classmethod
    def of(cls, rows: Rows) -> Blocks:
        """Rows in memory, as one block."""
        return cls((len(rows),), lambda block: rows)

    def __len__(self) -> int:
        return sum(self.sizes)

    def first(self, rows: int) -> Blocks:
        """The first `rows` rows, or all of them where there are fewer."""
        sizes, left = [], rows
        for size in self.sizes:
            if left > 0:
                sizes.append(min(size, left))
                left -= size
        return Blocks(tuple(sizes), lambda block: self.read(block)[: sizes[block]])
