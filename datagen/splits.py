"""Which split owns what, for tasks so small that two draws may well be the same, and random bits of one split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datagen.task import raw_words

UInt64 = npt.NDArray[np.uint64]

SMALL_SPACE_BITS = 40  # up to here two draws may well meet the same context
SPLIT_OF_BUCKET = np.array(["test", "validation"] + ["train"] * 6)
# This salt puts six of the words 0..7 into train and one into each other split: so no split of Rule 110, whose
# contexts are words from 0 on, is ever without contexts.
SPLIT_SALT = 23


def split_of(words: UInt64) -> npt.NDArray[np.str_]:
    """The split that owns each word, uint64 [n]: an eighth to test, an eighth to validation."""
    # The finaliser of MurmurHash3: every bit of the word moves every bit of the hash.
    word = words + np.uint64(SPLIT_SALT)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word = (word ^ (word >> np.uint64(33))) * np.uint64(factor)
    bucket = (word ^ (word >> np.uint64(33))) & np.uint64(7)
    return np.take(SPLIT_OF_BUCKET, bucket)


def draw_contexts(split: str, stream: np.random.Philox, rows: int, bits: int) -> npt.NDArray[np.uint8]:
    """Random contexts of a split, uint8 [rows, bits] of 0 and 1.

    Up to 40 bits every context belongs to one split by its hash, so that no two splits share one; above, contexts are
    drawn freely, as a collision is negligible.
    """
    words = _draw_small(bits, split, stream, rows) if bits <= SMALL_SPACE_BITS else _draw(bits, stream, rows)
    as_bytes = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, count=bits, bitorder="little")


def _draw(bits: int, stream: np.random.Philox, rows: int) -> UInt64:
    """Words that hold `bits` bits, uint64 [rows, words]."""
    return raw_words(stream, rows * -(-bits // 64)).reshape(rows, -1)


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
