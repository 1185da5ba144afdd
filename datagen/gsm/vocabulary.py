"""Text to tokens and back: one token per word for models trained from scratch, or a pretrained model's tokenizer.

In both, the tokens of a text are the concatenated tokens of its pieces (datagen.gsm.text).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from datagen.gsm.graph import MAX_VALUE
from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.gsm.text import PROMPT, write_question, write_sentence
from datagen.gsm.themes import THEMES
from datagen.tokenizer import Tokenizer
from datagen.vocabulary import PUNCTUATION, WordVocabulary, piecewise, split

NUMBERS = tuple(str(value) for value in range(MAX_VALUE + 1))


class Words(WordVocabulary):
    """One token for each word, number and punctuation mark. decode(encode(text)) == text if all spaces are single.

    A number is a single token: an answer takes one prediction, and models need not learn place value, which the
    problems do not test. 0..MAX_VALUE is few enough numbers for the common ones to occur often.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """texts: their words are added to those of the generator, as for official problems."""
        known = {word for pieces in example_texts() for piece in pieces for word in split(piece)}
        added = {word for text in texts for word in split(text)} - known
        fixed = (*PUNCTUATION, *NUMBERS)
        # The added words come last, so that the ids of the known words do not depend on them.
        super().__init__((*fixed, *sorted(known - set(fixed)), *sorted(added - set(fixed))))


def pretrained(path: str | Path) -> Tokenizer:
    """A pretrained model's tokenizer, checked: it must be `piecewise`. Raises ValueError as that and Tokenizer.read."""
    return piecewise(Tokenizer.read(path), example_texts())


def example_texts() -> Iterator[list[str]]:
    """Texts, as pieces, that together contain every sentence form with every name of every theme."""
    for theme in THEMES:
        for thing, place in zip(theme.things, theme.places, strict=True):
            number, average = Quantity("number", thing, place), Quantity("average", thing, place)
            total, grand = Quantity("total", "", place), Quantity("grand", "", place)
            expressions = (
                UNKNOWN,
                Expression(3),
                Expression(operands=(total,)),
                Expression(operands=(number, average, grand)),
                Expression(operands=(number, total), minus=True),
                Expression(2, (number,)),
                Expression(4, (number, average), times=True),
            )
            for asked, subject in ((total, number), (number, average), (grand, number)):
                statements = [Statement(subject, expression) for expression in expressions]
                sentences = [piece for statement in statements for piece in write_sentence(theme, statement)]
                yield [*write_question(theme, asked), *sentences, *PROMPT, f" {MAX_VALUE}"]
