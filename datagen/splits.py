"""Splits that share nothing: draws contexts so that no two splits have one, and assigns content to splits by a hash."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from datagen.task import raw_words

UInt64 = npt.NDArray[np.uint64]

SMALL_SPACE_BITS = 40  # up to here two random contexts may well be equal
SPLIT_OF_BUCKET = np.array(["test", "validation"] + ["train"] * 6)
# With this salt six of the words 0..7 belong to train and one to each other split, so that every split has contexts
# even if they have only 3 bits, as the smallest of Rule 110.
SPLIT_SALT = 23


def split_of(words: UInt64) -> npt.NDArray[np.str_]:
    """The split of each word, uint64 [n] -> str [n]: 1/8 test, 1/8 validation, 3/4 train."""
    # The finaliser of MurmurHash3: every bit of the word affects every bit of the hash.
    word = words + np.uint64(SPLIT_SALT)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word = (word ^ (word >> np.uint64(33))) * np.uint64(factor)
    bucket = (word ^ (word >> np.uint64(33))) & np.uint64(7)
    return np.take(SPLIT_OF_BUCKET, bucket)


def split_by_content(content: bytes) -> str:
    """The split that content belongs to: 3/4 of all contents to train, 1/8 each to validation and test."""
    word = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
    return str(split_of(np.array([word], np.uint64))[0])


def draw_contexts(split: str, stream: np.random.Philox, rows: int, bits: int) -> npt.NDArray[np.uint8]:
    """Random contexts of a split, uint8 [rows, bits] of 0 and 1.

    Up to 40 bits a hash assigns each context to one split, so no two splits share one. Above 40 bits contexts are drawn
    independently, as collisions are negligible.
    """
    words = _draw_small(bits, split, stream, rows) if bits <= SMALL_SPACE_BITS else _draw(bits, stream, rows)
    as_bytes = words.astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(as_bytes, axis=1, count=bits, bitorder="little")


def _draw(bits: int, stream: np.random.Philox, rows: int) -> UInt64:
    """Random words, enough for `bits` bits per row, uint64 [rows, words]."""
    return raw_words(stream, rows * -(-bits // 64)).reshape(rows, -1)


def _draw_small(bits: int, split: str, stream: np.random.Philox, rows: int) -> UInt64:
    """Words whose low `bits` bits are contexts of the split, uint64 [rows, 1], by rejection sampling."""
    drawn: list[UInt64] = []
    missing = rows
    while missing > 0:
        # The batch size does not change the result: each draw takes one word of the stream.
        words = raw_words(stream, 2 * rows) & np.uint64(2**bits - 1)
        drawn.append(words[split_of(words) == split])
        missing -= len(drawn[-1])
    return np.concatenate(drawn)[:rows, None]
