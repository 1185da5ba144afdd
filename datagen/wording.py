"""How the rows of a task read to a person. Needs the standard library alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datagen.rows import PAD_NAME


class AnsweredQuestion(NamedTuple):
    """One question of a row and what a model answered, each token as the word that stands for it in the vocabulary.

    words: of the whole row, with the pads at its left; starts: where each of the row's answers starts;
    number: which of them this is; length: its tokens; depth: at which it is asked; given: the words predicted.
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
        """The words of the right answer."""
        return self.words[self.start : self.start + self.length]


class QuestionText(NamedTuple):
    """A question as a person would write it, its right answer, and the answer that was given."""

    problem: str
    right: str
    given: str


class Wording:
    """How a dataset's rows read, where nothing is known of its task: the words of its vocabulary, all of one kind."""

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """A question in plain words."""
        return QuestionText(
            spoken(asked.words[: asked.start]),
            spoken(asked.right),
            spoken(asked.given),
        )

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """The kind of each row, given as its words; accuracy is reported for each kind. [] where all are of one."""
        return []


def spoken(words: Iterable[str]) -> str:
    """The words with spaces between, without pads."""
    return " ".join(word for word in words if word != PAD_NAME)
