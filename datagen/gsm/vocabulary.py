"""Text to tokens and back: words for models trained from scratch, or a pretrained model's own tokenizer.

Both encode a text piece by piece (datagen.gsm.text): its tokens are those of its pieces, one after another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from datagen.gsm.graph import MAX_VALUE
from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.gsm.text import PROMPT, write_question, write_sentence
from datagen.gsm.themes import THEMES

PUNCTUATION = (",", ".", "?", ":")
NUMBERS = tuple(str(value) for value in range(MAX_VALUE + 1))


class Vocabulary(Protocol):
    @property
    def tokens(self) -> tuple[str, ...]:
        """Token id -> what it stands for."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class Words:
    """One token for each word, number and punctuation mark; decode(encode(text)) is the text, where spaces are single.

    A number is one token, whole: the answer is one prediction, and no model has to learn place value, which the
    problems do not test. 0..MAX_VALUE are few enough for all that matter to be seen often.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """texts  whose words are needed beside our own: those of official problems."""
        ours = {word for pieces in every_form() for piece in pieces for word in split(piece)}
        others = {word for text in texts for word in split(text)} - ours
        fixed = (*PUNCTUATION, *NUMBERS)
        # Ours first: their ids do not depend on the others.
        self.tokens = (*fixed, *sorted(ours - set(fixed)), *sorted(others - set(fixed)))
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Raises ValueError for a word that is not in the vocabulary."""
        try:
            return [self._ids[word] for word in split(text)]
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]!r} is not one of the {len(self.tokens)} words of the vocabulary"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        tokens = [self.tokens[i] for i in ids]
        return "".join(token if token in PUNCTUATION else f" {token}" for token in tokens).removeprefix(" ")


class Pretrained:
    """A Hugging Face tokenizer, from a tokenizer.json or the directory that holds one; adds no special tokens.

    It must encode the pieces of a text as it encodes the whole: byte-level BPE does (GPT-2, Llama 3, Qwen, SmolLM).
    """

    def __init__(self, path: str | Path) -> None:
        """Raises ValueError for a path without a tokenizer, or a tokenizer that sees across the borders of pieces."""
        from tokenizers import Tokenizer

        # os.path answers also for what no file system takes as a name
        file = Path(path) / "tokenizer.json" if os.path.isdir(path) else Path(path)
        if not os.path.isfile(file):
            there = str(file)[:200]
            raise ValueError(f"tokenizer must be a tokenizer.json or a directory with one, there is no {there!r}")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers has no type of its own for what it cannot read
            raise ValueError(
                f"tokenizer {file} cannot be read ({error}): give a Hugging Face tokenizer.json"
            ) from error
        for pieces in every_form():
            text = "".join(pieces)
            if self.encode(text) != [token for piece in pieces for token in self.encode(piece)]:
                raise ValueError(f"tokenizer {file} encodes a text otherwise than its pieces one by one: {text!r}")

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        return tuple(self._tokenizer.id_to_token(i) or "" for i in range(size))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def split(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return re.findall(r"[,.?:]|[^\s,.?:]+", text)


def every_form() -> Iterator[list[str]]:
    """The pieces of texts with every sentence form and every name of every theme."""
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
