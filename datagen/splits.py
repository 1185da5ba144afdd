"""Which split owns what, for tasks so small that two draws may well be the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SPLIT_OF_BUCKET = np.array(["test", "validation"] + ["train"] * 6)
# This salt puts six of the words 0..7 into train and one into each other split: so no split of Rule 110, whose
# contexts are words from 0 on, is ever without contexts.
SPLIT_SALT = 23


def split_of(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.str_]:
    """The split that owns each word, uint64 [n]: an eighth to test, an eighth to validation."""
    # The finaliser of MurmurHash3: every bit of the word moves every bit of the hash.
    word = words + np.uint64(SPLIT_SALT)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        word = (word ^ (word >> np.uint64(33))) * np.uint64(factor)
    bucket = (word ^ (word >> np.uint64(33))) & np.uint64(7)
    return np.take(SPLIT_OF_BUCKET, bucket)
