"""Encodes problems, and bounds the token counts of sentences and problems."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

from datagen.gsm.distractors import SHAPES
from datagen.gsm.quantity import Expression, Quantity, Statement
from datagen.gsm.text import write_question, write_sentence
from datagen.gsm.themes import THEMES, Theme
from datagen.gsm.vocabulary import Words, example_texts
from datagen.tokenizer import Tokenizer
from datagen.vocabulary import PieceEncoder, piecewise


class ProblemEncoder(PieceEncoder):
    """Encodes the text of problems, and bounds the tokens of its names and sentences."""

    @cached_property
    def longest_noun(self) -> int:
        """Tokens of the longest name of a quantity, with its article."""
        return max(len(self.encode(write_question(*longest)[1:2])) for longest in self._longest)

    def longest_sentence(self, distractors: str, numbers: int) -> int:
        """An upper bound on the tokens of a distractor's sentence; distractors, numbers: as in Gsm."""
        operands = max(operands for operands, _ in SHAPES[distractors])
        return max(
            len(self.encode(write_sentence(theme, Statement(noun, Expression(numbers, (noun,) * operands)))))
            for theme, noun in self._longest
        )

    @cached_property
    def _longest(self) -> list[tuple[Theme, Quantity]]:
        """For each theme, the quantity with the longest name."""

        def longest(names: Iterable[str]) -> str:
            return max(names, key=lambda name: len(self.encode([f" {name}"])))

        return [(theme, Quantity("average", longest(theme.things), longest(theme.places))) for theme in THEMES]

    def check(self, operations: tuple[int, int], tokens: tuple[int, int], longest_sentence: int) -> None:
        """Check the (least, greatest) operations and the (shortest, longest) row of a task with such sentences.

        Raises ValueError unless every problem fits into the shortest row and the lengths differ by a sentence or more.
        """
        # An in-edge adds a noun or a number, at most four words around it, and at most one subject of a sentence.
        least = (2 * operations[1] + 3) * (self.longest_noun + 4)
        if tokens[0] < least:
            raise ValueError(
                f"tokens[0] must be at least {least} to hold a problem of {operations[1]} operations, got {tokens[0]}"
            )
        if tokens[1] - tokens[0] < longest_sentence:
            raise ValueError(
                f"tokens[1] must be at least tokens[0] + {longest_sentence}, the longest sentence, got {tokens}"
            )


def encoder_of(tokenizer: str | None) -> ProblemEncoder:
    """The encoder for a tokenizer's path; None: one token per word. Raises ValueError as Tokenizer.read and
    `piecewise`."""
    return _encoder(None if tokenizer is None else Tokenizer.read(tokenizer))


@lru_cache(maxsize=4)
def _encoder(tokenizer: Tokenizer | None) -> ProblemEncoder:
    return ProblemEncoder(Words() if tokenizer is None else piecewise(tokenizer, example_texts()))
