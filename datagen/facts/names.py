"""Made-up names of people and places, of one word or two, and which of them may occur in a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

import numpy as np

from datagen.splits import split_of

Sort = Literal["person", "place"]
Name = tuple[str, ...]


def _made_up(stems: str, endings: str = "") -> tuple[str, ...]:
    return tuple(stem + ending for stem in stems.split() for ending in endings.split() or [""])


FIRST_NAMES = _made_up("Al Bren Cor Dar El Fal Gor Hel Il Jor Kal Lor Mer Nor Or Pel", "a an en ia in is o us")
LAST_NAMES = _made_up(
    "Ash Brack Cald Dunn Elm Farn Grim Holt Inker Kett Lang Mars Nett Oak Pem Rud", "by ell low man mond ridge son wick"
)
TOWNS = _made_up(
    "Abber Brind Clav Drav Ester Fenn Glim Hesk Isk Jarr Korb Lund Melk Ost Prin Rusk",
    "bay ford ham haven mere port ton vale",
)
QUALIFIERS = _made_up("Black Broad East Far Great High Little Long Lower Near North Old South Upper West White")

# (sort, words) -> the words that names have at each position
WORDS: dict[tuple[Sort, int], tuple[tuple[str, ...], ...]] = {
    ("person", 1): (FIRST_NAMES,),
    ("person", 2): (FIRST_NAMES, LAST_NAMES),
    ("place", 1): (TOWNS,),
    ("place", 2): (QUALIFIERS, TOWNS),
}
SORTS: tuple[Sort, ...] = ("person", "place")


class Names(NamedTuple):
    """The names that may occur in a split. pairs: (subject, sort) -> the names of this sort that a fact may connect
    with the subject; a subject that has no entry may be connected with all of them."""

    every: Mapping[Sort, Sequence[Name]]
    pairs: Mapping[tuple[Name, Sort], Sequence[Name]]

    def objects(self, subject: Name, sort: Sort) -> Sequence[Name]:
        return self.pairs.get((subject, sort), self.every[sort])


@cache
def names_of(split: str, words: int) -> Names:
    """The names of a split, each of one word or two.

    A hash assigns each name of two words to one split. With names of one word it assigns each pair of names: all names
    occur in every split, but no pair of them stands in facts of two splits.
    """
    return _two_words(split) if words == 2 else _one_word(split)


def _two_words(split: str) -> Names:
    names: dict[Sort, Sequence[Name]] = {}
    first = 0
    for sort in SORTS:
        every = list(product(*WORDS[sort, 2]))
        belongs = split_of(np.arange(first, first + len(every), dtype=np.uint64)) == split
        names[sort] = [every[i] for i in np.flatnonzero(belongs)]
        first += len(every)
    return Names(names, {})


def _one_word(split: str) -> Names:
    names: dict[Sort, Sequence[Name]] = {sort: list(product(*WORDS[sort, 1])) for sort in SORTS}
    numbered = [(sort, name) for sort, listed in names.items() for name in listed]
    number = np.arange(len(numbered), dtype=np.uint64)
    # the hash of a pair does not depend on its order
    low, high = np.minimum.outer(number, number), np.maximum.outer(number, number)
    belongs = (split_of((low * np.uint64(len(numbered)) + high).ravel()) == split).reshape(low.shape)
    np.fill_diagonal(belongs, False)
    pairs: dict[tuple[Name, Sort], list[Name]] = {(name, sort): [] for _, name in numbered for sort in names}
    for i, j in zip(*belongs.nonzero(), strict=True):
        (_, subject), (sort, other) = numbered[i], numbered[j]
        pairs[subject, sort].append(other)
    return Names(names, pairs)
