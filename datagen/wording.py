"""Rows of a task as text for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datagen.rows import PAD_NAME


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


class Wording:
    """Writes the rows of a dataset as text. This default shows the words of the vocabulary; tasks override it."""

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


def spoken(words: Iterable[str]) -> str:
    """The words, separated by spaces, without padding."""
    return " ".join(word for word in words if word != PAD_NAME)
