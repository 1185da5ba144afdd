"""Questions of a dataset in words, as the task phrases them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datagen.rows import Rows
from datagen.schema import Dataset
from datagen.task import wording_of
from datagen.vocabulary import word_of
from datagen.wording import AnsweredQuestion, Control, QuestionText

NO_KIND = "no kind"

Words = Callable[[Sequence[int]], list[str]]


def question_formatter(dataset: Dataset) -> Callable[[AnsweredQuestion], QuestionText]:
    """A function that writes out a question: as the dataset's task phrases it, or in the words of the vocabulary where
    the task is unknown here."""
    return wording_of(dataset.task, dataset.config).question_text


def kinds_of(rows: Rows, dataset: Dataset) -> list[str]:
    """The kind of each row: its dataset's column, else as the task tells it (GSM: forward or reverse); [] where all are
    of one kind."""
    if rows.kind is not None:
        return [kind or NO_KIND for kind in rows.kind.tolist()] if len(set(rows.kind.tolist())) > 1 else []
    words = words_of(dataset)
    return wording_of(dataset.task, dataset.config).kinds(words(tokens) for tokens in rows.tokens.tolist())


def control_of(dataset: Dataset) -> Control | None:
    """The control among the kinds of the dataset's task."""
    return wording_of(dataset.task, dataset.config).control


def words_of(dataset: Dataset) -> Words:
    """A function from token ids to words of the dataset's vocabulary."""
    return lambda tokens: [word_of(dataset.vocabulary, token) for token in tokens]
