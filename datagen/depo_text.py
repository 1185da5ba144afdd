"""Depo's rows as text: a parser and solver that knows the grammar alone, and a reader of the official samples.

row = <pad>* edge+ question+        edge = name name        question = ?k name = name        name = [x] y
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.depo import FIRST, QUERY, Depo
from datagen.rows import PAD_NAME, Rows, pad_id

# Ids of the official generator; its 1..50 and 51..100 are our x and y.
BOS, OFFICIAL_FIRST, OFFICIAL_QUERY, OFFICIAL_ANSWER = 0, 1, 9000, 9500

_NAME = r"(?:x\d+ )?y\d+ "
_EDGE = re.compile(f"({_NAME})({_NAME})")
_QUESTION = re.compile(rf"\?(\d+) ({_NAME})= ({_NAME})")
_ROW = re.compile(rf"(?:{PAD_NAME} )*((?:{_NAME}{_NAME})+)((?:\?\d+ {_NAME}= {_NAME})+)")

Name = tuple[str, ...]  # one or two vocabulary entries


@dataclass(frozen=True)
class Question:
    """Which node is `hops` hops from `node`? `answer` is what the row says, from its token number `start` on."""

    hops: int
    node: Name
    answer: Name
    start: int


@dataclass(frozen=True)
class Puzzle:
    """A row: its edges (from, to) and its questions, in their order."""

    edges: tuple[tuple[Name, Name], ...]
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        following = dict(self.edges)
        node, seen = self.edges[0][0], set()
        while node in following and node not in seen:
            seen.add(node)
            node = following[node]
        if node != self.edges[0][0] or len(seen) != len(self.edges):
            raise ValueError(f"the {len(self.edges)} edges must be one directed cycle, got {self.edges}")
        if not {question.node for question in self.questions} <= seen:
            raise ValueError("every node that is asked about must be on the cycle")

    def solve(self, question: Question) -> Name:
        """The node that the edges lead to."""
        following, node = dict(self.edges), question.node
        for _ in range(question.hops):
            node = following[node]
        return node


def parse(words: Sequence[str]) -> Puzzle:
    """Read a row, given as vocabulary entries: `[vocabulary[token] for token in tokens]`.

    Raises ValueError where it does not follow the grammar, or its edges are no directed cycle.
    """
    text = "".join(f"{word} " for word in words)
    row = _ROW.fullmatch(text)
    if row is None:
        raise ValueError(f"not a row of Depo (pads, edges, questions): {text!r}")
    edges = [(_name(source), _name(target)) for source, target in _EDGE.findall(row[1])]
    questions = [
        Question(int(found[1]), _name(found[2]), _name(found[3]), start=text.count(" ", 0, found.start(3)))
        for found in _QUESTION.finditer(text, row.start(2))
    ]
    return Puzzle(tuple(edges), tuple(questions))


def read_official(path: str | Path, task: Depo) -> Rows:
    """The samples of the official generator as rows of `task`: its vocabulary, without BOS, left-padded.

    path: JSON lines, each with the token ids `text`. Only the answers' own tokens are answers here; the official
    `label` trains the token before them too.
    Raises ValueError, with the line, for what is no sample, or does not fit into the task's nodes, hops and queries.
    """
    vocabulary = task.vocabulary
    ids = {OFFICIAL_FIRST + i: FIRST + i for i in range(QUERY)}
    ids |= {OFFICIAL_QUERY + k: QUERY + k - 1 for k in range(1, task.hops + 1)}
    ids |= {OFFICIAL_ANSWER: QUERY + task.hops}
    rows: list[list[int]] = []
    pads: list[int] = []
    puzzles: list[Puzzle] = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        try:
            bos, *text = json.loads(line)["text"]
            tokens = [ids[token] for token in text]
            puzzle = parse([vocabulary[token] for token in tokens])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: not an official sample of at most {task.hops} hops ({error!r})"
            ) from error
        if bos != BOS or len(puzzle.edges) > task.nodes or len(puzzle.questions) > task.queries:
            raise ValueError(
                f"{path}, line {number}: must begin with {BOS} and have at most {task.nodes} nodes and {task.queries} "
                f"queries, got {bos}, {len(puzzle.edges)} and {len(puzzle.questions)}: ask for a larger task"
            )
        context = next(i for i, token in enumerate(tokens) if token >= QUERY)
        pads.append(task.context_length - context)
        rows.append([len(vocabulary) - 1] * pads[-1] + tokens)
        puzzles.append(puzzle)
    return Rows.of(
        rows,
        answer_start=[
            [pad + question.start for question in puzzle.questions] for pad, puzzle in zip(pads, puzzles, strict=True)
        ],
        answer_length=[[len(question.answer) for question in puzzle.questions] for puzzle in puzzles],
        answer_depth=[[question.hops for question in puzzle.questions] for puzzle in puzzles],
        pad=pad_id(vocabulary),
    )


def _name(text: str) -> Name:
    return tuple(text.split())
