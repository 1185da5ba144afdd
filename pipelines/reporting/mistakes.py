"""A model's mistakes: its most frequent wrong answers, and examples in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datagen.rows import Ragged, Rows
from datagen.schema import Dataset
from datagen.vocabulary import word_of
from datagen.wording import AnsweredQuestion
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.questions import Words, question_formatter, words_of
from sleepmodel.evaluation.accuracy import right_answers
from sleepmodel.evaluation.statistics import Int64

MOST_CONFUSIONS, MOST_WRONG = 5, 3  # at each depth
MOST_DEPTHS = 16  # spread over all of them
MOST_CHARACTERS = 1200  # of a text
GAP = " … "

Table = tuple[Sequence[str], Sequence[Sequence[object]]]  # head, rows


@dataclass(frozen=True)
class ConfusionCount:
    """At this depth `right` was the right answer `of` times, and in `times` of them the model gave `given`."""

    depth: int
    right: str
    given: str
    times: int
    of: int


@dataclass(frozen=True)
class WrongAnswer:
    """A wrong answer, in words. row: its number in the test split."""

    row: int
    depth: int
    problem: str
    right: str
    given: str


@dataclass(frozen=True)
class Mistakes:
    """The mistakes of one variant with one seed."""

    variant: str
    seed: int
    confusion_counts: list[ConfusionCount]
    wrong_answers: list[WrongAnswer]

    def tables(self) -> list[Table]:
        """The confusion counts and the wrong answers as tables; one without rows is left out."""
        frequent = [(i.depth, i.right, i.given, f"{i.times:,} of {i.of:,}") for i in self.confusion_counts]
        wrong = [(f.depth, f.problem, f.right, f.given, f.row) for f in self.wrong_answers]
        found: list[Table] = [
            (("depth", "right", "given", "times"), frequent),
            (("depth", "problem", "right", "given", "test row"), wrong),
        ]
        return [table for table in found if table[1]]


def confusion_counts(predicted: Int64, rows: Rows, vocabulary: Sequence[str]) -> list[ConfusionCount]:
    """The most frequent wrong answers of one token at each depth, MOST_DEPTHS at most. predicted: from `predict`, int64
    [n, T]."""
    tokens, _ = rows.batch()
    start, length, depth = rows.answers()
    row, number = np.nonzero(length == 1)
    at = row, start[row, number]
    pairs = np.stack([depth[row, number], tokens[at], predicted[at]], axis=1)  # depth, right, given
    asked = {tuple(k): n for k, n in _counted(pairs[:, :2])}
    wrong = [(*k, n) for k, n in _counted(pairs[pairs[:, 1] != pairs[:, 2]])]
    found: list[ConfusionCount] = []
    for d in _shown(np.unique([d for d, *_ in wrong])):
        frequent = sorted((count for count in wrong if count[0] == d), key=lambda count: -count[3])
        found += [
            ConfusionCount(d, vocabulary[r], word_of(vocabulary, g), n, asked[d, r])
            for _, r, g, n in frequent[:MOST_CONFUSIONS]
        ]
    return found


def wrong_answers(predicted: Int64, rows: Rows, dataset: Dataset) -> list[WrongAnswer]:
    """The first wrong answers of each depth, MOST_DEPTHS at most, in words; the least depth first. predicted: from
    `predict`."""
    text = question_formatter(dataset)
    wrong = _wrong(predicted, rows, words_of(dataset))
    return [WrongAnswer(row, asked.depth, *map(_shortened, text(asked))) for row, asked in wrong]


def _wrong(predicted: Int64, rows: Rows, words: Words) -> Iterator[tuple[int, AnsweredQuestion]]:
    start, length, depth = rows.answers()
    right = right_answers(predicted, rows)
    for d in _shown(np.unique(depth[~right])):
        for row, number in np.argwhere(~right & (depth == d))[:MOST_WRONG].tolist():
            begin, count = int(start[row, number]), int(length[row, number])
            tokens = rows.tokens[row : row + 1]
            yield (
                row,
                AnsweredQuestion(
                    words=words(tokens.values.tolist() if isinstance(tokens, Ragged) else tokens[0].tolist()),
                    starts=start[row, length[row] > 0].tolist(),
                    number=number,
                    length=count,
                    depth=int(d),
                    given=words(predicted[row, begin : begin + count].tolist()),
                ),
            )


def _shown(depths: Int64) -> list[int]:
    """At most MOST_DEPTHS of the depths, the least and the greatest among them."""
    indices = np.linspace(0, len(depths) - 1, min(MOST_DEPTHS, len(depths))).round().astype(int)
    shown: list[int] = depths[indices].tolist()
    return shown


def _shortened(text: str) -> str:
    """The text without its middle where it is long: questions begin or end a row."""
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else text[:half] + GAP + text[-half:]


def _counted(table: Int64) -> list[tuple[list[int], int]]:
    """The distinct rows of a table, in order, and how often each occurs."""
    kinds, times = np.unique(table, axis=0, return_counts=True)
    return list(zip(kinds.tolist(), times.tolist(), strict=True))


def markdown(mistakes: Sequence[Mistakes]) -> str:
    """The mistakes as Markdown tables."""
    parts = ["# Wrong answers"]
    for found in mistakes:
        parts.append(f"## {found.variant}, seed {found.seed}")
        parts += [markdown_table(*table) for table in found.tables()] or ["No answer is wrong."]
    return "\n\n".join(parts) + "\n"
