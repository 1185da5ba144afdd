"""Questions of a dataset as a person would write them: tokens become words, and the task says how words read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from datagen.rows import Rows
from datagen.schema import Dataset
from datagen.task import wording_of
from datagen.wording import AnsweredQuestion, QuestionText

Words = Callable[[Sequence[int]], list[str]]


def question_formatter(dataset: Dataset) -> Callable[[AnsweredQuestion], QuestionText]:
    """How questions of a dataset are shown: by its task, or as the words of its vocabulary for tasks unknown here."""
    return wording_of(dataset.task, dataset.config).question_text


def kinds_of(rows: Rows, dataset: Dataset) -> list[str]:
    """The kind of each row (GSM: forward or reverse); [] for tasks with one kind."""
    words = words_of(dataset)
    return wording_of(dataset.task, dataset.config).kinds(words(tokens) for tokens in rows.tokens.tolist())


def words_of(dataset: Dataset) -> Words:
    """What turns token ids of a dataset into words."""
    return lambda tokens: [dataset.vocabulary[token] for token in tokens]
