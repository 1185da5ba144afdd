"""Rule 110 (arXiv 2605.26099, section "Rule 110", figure 2): what is the first cell of each state after `steps` steps?

Needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datagen.rows import Rows
from datagen.task import check_int, random_stream

QUERY = 2  # the id of "?"; the ids of "0" and "1" are the cells themselves
SMALL_SPACE_BITS = 40  # up to here two draws may well meet the same context
SPLIT_OF_BUCKET = np.array(["test", "validation"] + ["train"] * 6)
# This salt puts six of the contexts 0..7, which every space has, into train and one into each other split:
# so no split is ever without contexts.
SPLIT_SALT = 23

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
            words = _raw(stream, rows * -(-self.context_length // 64)).reshape(rows, -1)
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


def split_of(contexts: UInt64) -> npt.NDArray[np.str_]:
    """The split that owns each context of a small space, given as its bits in a word, uint64 [n]."""
    # The finaliser of MurmurHash3: every bit of the context moves every bit of the hash.
    word = contexts + np.uint64(SPLIT_SALT)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word = (word ^ (word >> np.uint64(33))) * np.uint64(factor)
    bucket = (word ^ (word >> np.uint64(33))) & np.uint64(7)
    return np.take(SPLIT_OF_BUCKET, bucket)


def _draw_small(bits: int, split: str, stream: np.random.Philox, rows: int) -> UInt64:
    """Words whose low `bits` bits are contexts of the split, uint64 [rows, 1]: uniform draws, others thrown away."""
    drawn: list[UInt64] = []
    missing = rows
    while missing > 0:
        # The batch size shapes no result: one draw takes one word of the stream.
        words = _raw(stream, 2 * rows) & np.uint64(2**bits - 1)
        drawn.append(words[split_of(words) == split])
        missing -= len(drawn[-1])
    return np.concatenate(drawn)[:rows, None]


def _raw(stream: np.random.Philox, words: int) -> UInt64:
    """The next words of the stream, uint64 [words]."""
    return np.asarray(stream.random_raw(words), dtype=np.uint64)
