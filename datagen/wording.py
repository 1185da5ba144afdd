"""Rows of a task as text for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from datagen.rows import PAD_NAME
from datagen.vocabulary import joined

# Byte-level tokenizers (GPT-2's alphabet) write these bytes as themselves, and the others as U+0100, U+0101, ...
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}


class AnsweredQuestion(NamedTuple):
    """One question of a row and a model's answer to it; tokens are given as words of the vocabulary.

    words: the whole row, left padding included; starts: the position of each answer in the row; number: the index of
    this answer; length: its number of tokens; depth: its depth; given: the model's answer.
    """

    words: Sequence[str]
    starts: Sequence[int]
    number: int
    length: int
    depth: int
    given: Sequence[str]

    @property
    def start(self) -> int:
        return self.starts[self.number]

    @property
    def right(self) -> Sequence[str]:
        """The right answer."""
        return self.words[self.start : self.start + self.length]


class QuestionText(NamedTuple):
    """A question in plain text, its right answer, and the model's answer."""

    problem: str
    right: str
    given: str


class Control(NamedTuple):
    """Two kinds of rows. Each row of kind `kind` directly follows a row of kind `of`, and differs from it in one thing:
    it lacks what a model has to remember. The difference of their likelihoods is therefore what a model remembers.
    """

    kind: str
    of: str


class Wording:
    """Writes the rows of a dataset as text. This default shows the words of the vocabulary; tasks override it.

    control: the control among the `kinds` of the task's validation and test rows; None if there is none.
    """

    control: ClassVar[Control | None] = None

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The question and both answers as plain text."""
        return QuestionText(
            spoken(asked.words[: asked.start]),
            spoken(asked.right),
            spoken(asked.given),
        )

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """The kind of each row, given as its words; accuracy is reported per kind. [] if there is only one kind."""
        return []


class TextWording(Wording):
    """Of a task whose rows are texts. It decodes tokens from the vocabulary alone: it needs to know whether there is a
    tokenizer, but not its file."""

    tokenizer: str | None

    def text(self, words: Iterable[str]) -> str:
        """The text that words of the vocabulary stand for."""
        return joined(words) if self.tokenizer is None else byte_level_text(words)


def byte_level_text(words: Iterable[str]) -> str:
    """The text that tokens of a byte-level vocabulary stand for."""
    characters = (bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode() for c in "".join(words))
    return b"".join(characters).decode(errors="replace").strip()


def spoken(words: Iterable[str]) -> str:
    """The words, separated by spaces, without padding."""
    return " ".join(word for word in words if word != PAD_NAME)
