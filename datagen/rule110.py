"""Rule 110 (arXiv 2605.26099, section "Rule 110", figure 2): what is the first cell of each state after `steps` steps?

Needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from datagen.splits import split_of
from datagen.task import check_int, random_stream, raw_words

QUERY = 2  # the id of "?"; the ids of "0" and "1" are the cells themselves
SMALL_SPACE_BITS = 40  # up to here two draws may well meet the same context

UInt8 = npt.NDArray[np.uint8]
UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Rule110:
    """`states` random states of `cells` cells, then `?`, then the first cell of each state after `steps` steps.

    cells   3..4096, cells of a state; the border is periodic.
    states  1..64, states in a row.
    steps   0..4096, steps of the automaton; the answers' depth.

    No two splits share a context, whatever their seeds: up to 40 bits (cells * states) every context belongs to one
    split by its hash, about 1/8 to test and 1/8 to validation. Above 40 bits contexts are drawn freely, as a collision
    is negligible: of 10 million train rows of 41 bits, one test row in 200,000 would meet its like; at 96 bits, none.
    """

    cells: int = 24
    states: int = 4
    steps: int = 32

    def __post_init__(self) -> None:
        check_int("cells", self.cells, 3, 4096)
        check_int("states", self.states, 1, 64)
        check_int("steps", self.steps, 0, 4096)

    @property
    def name(self) -> str:
        return "rule110"

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("0", "1", "?")

    @property
    def context_length(self) -> int:
        """Tokens before the query token."""
        return self.cells * self.states

    @property
    def row_length(self) -> int:
        """Tokens in each row: the context, `?` and one label a state."""
        return self.context_length + 1 + self.states

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, a function of (config, split, seed, shard) alone.

        split is train, validation or test; seed and shard are 0 or more, rows 1 or more; else ValueError.
        Returns tokens uint16 [rows, row_length] and one answer of one token a state: answer_* int32 [rows, states].
        """
        stream = random_stream(self, split, seed, shard)
        check_int("rows", rows, 1, 2**31 - 1)
        context = self._contexts(split, stream, rows)
        answers = np.arange(self.context_length + 1, self.row_length, dtype=np.int32)
        tokens = np.empty((rows, self.row_length), dtype=np.uint16)
        tokens[:, : self.context_length] = context
        tokens[:, self.context_length] = QUERY
        tokens[:, answers] = first_cells(context.reshape(-1, self.cells), self.steps).reshape(rows, self.states)
        shape = (rows, self.states)
        return Rows(
            tokens=tokens,
            answer_start=np.tile(answers, (rows, 1)),
            answer_length=np.ones(shape, dtype=np.int32),
            answer_depth=np.full(shape, self.steps, dtype=np.int32),
        )

    def _contexts(self, split: str, stream: np.random.Philox, rows: int) -> UInt8:
        """Random contexts of a split, uint8 [rows, context_length] of 0 and 1."""
        if self.context_length <= SMALL_SPACE_BITS:
            words = _draw_small(self.context_length, split, stream, rows)
        else:
            words = raw_words(stream, rows * -(-self.context_length // 64)).reshape(rows, -1)
        as_bytes = words.astype("<u8", copy=False).view(np.uint8)
        return np.unpackbits(as_bytes, axis=1, count=self.context_length, bitorder="little")


def first_cells(states: UInt8, steps: int) -> UInt8:
    """The first cell of each state after `steps` steps of rule 110, periodic border.

    states uint8 [n, cells] of 0 and 1; returns uint8 [n].
    """
    # Eight states share a byte, so that each bitwise operation steps all of them: [cells, n / 8].
    centre = np.packbits(states.T, axis=1)
    for _ in range(steps):
        left, right = np.roll(centre, 1, axis=0), np.roll(centre, -1, axis=0)
        centre = (centre | right) & ~(left & centre & right)
    return np.unpackbits(centre[0], count=len(states))


def _draw_small(bits: int, split: str, stream: np.random.Philox, rows: int) -> UInt64:
    """Words whose low `bits` bits are contexts of the split, uint64 [rows, 1]: uniform draws, others thrown away."""
    drawn: list[UInt64] = []
    missing = rows
    while missing > 0:
        # The batch size shapes no result: one draw takes one word of the stream.
        words = raw_words(stream, 2 * rows) & np.uint64(2**bits - 1)
        drawn.append(words[split_of(words) == split])
        missing -= len(drawn[-1])
    return np.concatenate(drawn)[:rows, None]
