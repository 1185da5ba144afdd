"""Questions of a dataset in words, as the task phrases them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datagen.rows import Rows
from datagen.schema import Dataset
from datagen.task import wording_of
from datagen.wording import AnsweredQuestion, Control, QuestionText

Words = Callable[[Sequence[int]], list[str]]


def question_formatter(dataset: Dataset) -> Callable[[AnsweredQuestion], QuestionText]:
    """A function that writes out a question: as the dataset's task phrases it, or in the words of the vocabulary where
    the task is unknown here."""
    return wording_of(dataset.task, dataset.config).question_text


def kinds_of(rows: Rows, dataset: Dataset) -> list[str]:
    """The kind of each row (GSM: forward or reverse); [] for tasks with one kind."""
    words = words_of(dataset)
    return wording_of(dataset.task, dataset.config).kinds(words(tokens) for tokens in rows.tokens.tolist())


def control_of(dataset: Dataset) -> Control | None:
    """The control among the kinds of the dataset's task."""
    return wording_of(dataset.task, dataset.config).control


def words_of(dataset: Dataset) -> Words:
    """A function from token ids to words of the dataset's vocabulary."""
    return lambda tokens: [word_of(dataset.vocabulary, token) for token in tokens]


def word_of(vocabulary: Sequence[str], token: int) -> str:
    """The word of a token. The vocabulary of a model, which may predict any of it, may be padded beyond this one."""
    return vocabulary[token] if token < len(vocabulary) else f"<{token}>"
