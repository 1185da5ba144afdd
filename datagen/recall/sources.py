"""Where passages come from: the text of documents, or sentences of GSM-Infinite's problems without end.

A source belongs to one split. No passage that it asks for can be asked in another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from datagen.byte_vocabulary import TextVocabulary
from datagen.gsm.distractors import Distractors
from datagen.gsm.graph import sample_core
from datagen.gsm.text import write_sentence
from datagen.gsm.themes import THEMES
from datagen.recall.documents import Documents, stretches
from datagen.rng import Rng
from datagen.splits import split_by_content
from datagen.task import SPLITS
from datagen.vocabulary import PieceEncoder

OPERATIONS = 8  # of the largest problems
DISTRACTORS = 64  # of a problem, about 1,000 words
MIN_PASSAGES = 8  # of a split

UInt32 = npt.NDArray[np.uint32]


class Excerpt(NamedTuple):
    """tokens: running text, in which a passage begins at a given position; elsewhere: another passage, from outside
    it."""

    tokens: list[int]
    elsewhere: list[int]


class Source(Protocol):
    def draw(self, before: int, after: int) -> Excerpt | None:
        """A random excerpt with `before` tokens before the beginning of a passage, and `after` from there on; None if
        the other passage that was drawn touches it."""


class ProblemSource:
    """Successive parts of one endless text: the statements of a random problem, then those of another, ...

    A passage belongs to one split, by a hash of its tokens.
    """

    def __init__(self, split: str, rng: Rng, encoder: PieceEncoder, passage: int) -> None:
        self._split, self._passage = split, passage
        self._sentences = _problem_sentences(rng, encoder)

    def draw(self, before: int, after: int) -> Excerpt:
        return Excerpt(self._part(before, after), self._part(0, self._passage))

    def _part(self, before: int, after: int) -> list[int]:
        """The next part of the text in which a passage of this split begins after `before` tokens."""
        tokens, starts, number = list[int](), list[int](), 0
        while True:
            while number >= len(starts) or len(tokens) < starts[number] + after:
                starts.append(len(tokens))
                tokens += next(self._sentences)
            start = starts[number]
            passage = np.array(tokens[start : start + self._passage], np.uint32)
            if start >= before and split_by_content(passage.tobytes()) == self._split:
                return tokens[start - before : start + after]
            number += 1


def _problem_sentences(rng: Rng, encoder: PieceEncoder) -> Iterator[list[int]]:
    """The tokens of sentences of random problems, hard ones, without end."""
    while True:
        theme = rng.choice(THEMES)
        core = sample_core(rng, theme, rng.between(1, OPERATIONS), hard=True, reverse=False)
        for statement in core.statements:
            yield encoder.encode(write_sentence(theme, statement))
        distractors = Distractors(rng, core, hard=True)
        for _ in range(DISTRACTORS):
            statement, value = distractors.draw()
            distractors.add(statement, value)
            yield encoder.encode(write_sentence(theme, statement))


class DocumentSource:
    """Random parts of one split's share of documents, a ring: its end is followed by its beginning.

    Raises ValueError if a share is less than twice the `longest` excerpt, or has fewer than MIN_PASSAGES passages.
    """

    def __init__(
        self, split: str, rng: Rng, documents: Documents, vocabulary: TextVocabulary, passage: int, longest: int
    ) -> None:
        shares = _shares(documents, vocabulary, passage)
        for name, share in shares.items():
            if len(share.tokens) < 2 * longest or len(share.starts) < MIN_PASSAGES:
                raise ValueError(
                    f"text {documents.source}: the part of it that is kept for {name} has {len(share.tokens):,} tokens "
                    f"and {len(share.starts):,} passages of {passage} tokens that are there once; must have at least "
                    f"{2 * longest:,} tokens and {MIN_PASSAGES} passages: give more text, or shorter rows, or, as a "
                    "passage begins with a sentence, text whose sentences end with a full stop or a line break"
                )
        self._rng, self._passage = rng, passage
        self._tokens, self._starts = shares[split]

    def draw(self, before: int, after: int) -> Excerpt | None:
        start, other = self._rng.choice(self._starts), self._rng.choice(self._starts)
        size = len(self._tokens)
        # how far behind the excerpt's first token, round the ring
        if not before + after <= (other - start + before) % size <= size - self._passage:
            return None
        return Excerpt(
            _part(self._tokens, start - before, before + after).tolist(),
            _part(self._tokens, other, self._passage).tolist(),
        )


class Share(NamedTuple):
    """tokens: of a split's stretches, joined; starts: where the passages that may be asked begin."""

    tokens: UInt32
    starts: list[int]


@lru_cache(maxsize=8)
def _shares(documents: Documents, vocabulary: TextVocabulary, passage: int) -> dict[str, Share]:
    """Each split's share of documents.

    Passages begin with a sentence, and each stands once among all such passages of all splits.
    """
    shares = _encoded(documents, vocabulary)

    def at(share: Share, start: int) -> bytes:
        return _part(share.tokens, start, passage).tobytes()

    times = Counter(at(share, start) for share in shares.values() for start in share.starts)
    return {
        split: Share(share.tokens, [start for start in share.starts if times[at(share, start)] == 1])
        for split, share in shares.items()
    }


@lru_cache(maxsize=4)
def _encoded(documents: Documents, vocabulary: TextVocabulary) -> dict[str, Share]:
    """Each split's share of documents, with the beginnings of all its sentences. A hash of its text assigns a stretch
    to a split, so that a file that is added later moves no other text to another split."""
    parts: dict[str, list[UInt32]] = {split: [] for split in SPLITS}
    starts: dict[str, list[int]] = {split: [] for split in SPLITS}
    length = dict.fromkeys(SPLITS, 0)
    for text in documents.texts:
        for stretch in stretches(text):
            joined = "".join(stretch)
            split = split_by_content(joined.encode())
            ids, ends = vocabulary.encode_with_ends(joined)
            # A sentence begins with the token that holds its first letter: " The", not the "." or "\n" before it.
            lengths = np.array([0, *map(len, stretch[:-1])])
            blanks = [len(sentence) - len(sentence.lstrip()) for sentence in stretch]
            first = np.searchsorted(ends, lengths.cumsum() + blanks, side="right")
            starts[split] += (length[split] + np.unique(first)).tolist()
            parts[split].append(np.array(ids, np.uint32))
            length[split] += len(ids)
    return {split: Share(np.concatenate([*parts[split], np.zeros(0, np.uint32)]), starts[split]) for split in SPLITS}


def _part(ring: UInt32, start: int, length: int) -> UInt32:
    return ring.take(np.arange(start, start + length), mode="wrap")
