"""What Depo draws from raw random words: names, orders, and the hash by which a context belongs to a split."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SYMBOLS = 50
INDEX_BITS = np.uint64(12)  # low bits of a sort key that hold an index; the number of names fits

UInt16 = npt.NDArray[np.uint16]
UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]


def drawn_names(words: UInt64, one_token: int, names: int) -> UInt16:
    """Distinct names for each row, uint16 [n, m] below `names`, from words [n, m]; the first `one_token` are short.

    The distribution is that of a fair coin between one token and two, random symbols, and a new draw for a duplicate.
    Among the remaining names, each short one is therefore SYMBOLS times as likely as each long one.
    """
    n, m = words.shape
    row = np.arange(n)
    urn = np.tile(np.arange(names, dtype=np.uint16), (n, 1))  # short, then long names; the unused first in each part
    short, long = np.full(n, one_token), np.full(n, names - one_token)
    drawn = np.empty((n, m), dtype=np.uint16)
    for column in range(m):
        ticket = (words[:, column] % (SYMBOLS * short + long).astype(np.uint64)).astype(np.int64)
        is_short = ticket < SYMBOLS * short
        index = np.where(is_short, ticket // SYMBOLS, one_token + ticket - SYMBOLS * short)
        short -= is_short
        long -= ~is_short
        drawn[:, column] = urn[row, index]
        urn[row, index] = urn[row, np.where(is_short, short, one_token + long)]
    return drawn


def shuffled(words: UInt64, size: Int64) -> Int64:
    """A random permutation of 0..size-1, then size..m-1, int64 [n, m], from words [n, m] and size [n, 1]."""
    index = np.arange(words.shape[1], dtype=np.uint64)
    beyond = (index >= size.astype(np.uint64)).astype(np.uint64) << np.uint64(63)
    keys = beyond | (words >> np.uint64(1) + INDEX_BITS << INDEX_BITS) | index
    keys.sort(axis=1)
    return (keys & np.uint64(2**12 - 1)).astype(np.int64)


def hashes(tokens: UInt16) -> UInt64:
    """A hash of each row, uint64 [n]."""
    word = np.zeros(len(tokens), dtype=np.uint64)
    for column in tokens.T:
        word = word * np.uint64(0x9E3779B97F4A7C15) + column
    return word
