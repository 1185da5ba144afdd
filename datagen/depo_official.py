"""Reads samples of Depo's official generator (Physics of Language Models: Part 4.1)."""

from __future__ import annotations

import json
from pathlib import Path

from datagen.checks import require
from datagen.depo import FIRST, QUERY, Depo
from datagen.depo_text import Puzzle, parse
from datagen.rows import Rows, pad_id
from datagen.storage import local_path

# Ids of the official generator; its 1..50 and 51..100 are our x and y.
BOS, OFFICIAL_FIRST, OFFICIAL_QUERY, OFFICIAL_ANSWER = 0, 1, 9000, 9500


def read_official(path: str | Path, task: Depo) -> Rows:
    """Samples of the official generator as rows of `task`: in its vocabulary, without BOS, padded on the left.

    path: JSON lines, each with the token ids `text`. An answer is only the tokens of its name; the official `label`
    includes the `=` before it.
    Raises ValueError if the task has other names or rows than the official one, and, with the line, if a sample is
    malformed or exceeds the task's nodes, hops or queries.
    """
    require(task.names is None, "names", task.names, "null for official samples")
    require(task.stated, "stated", task.stated, "true for official samples")
    vocabulary = task.vocabulary
    ids = {OFFICIAL_FIRST + i: FIRST + i for i in range(QUERY)}
    ids |= {OFFICIAL_QUERY + k: QUERY + k - 1 for k in range(1, task.hops + 1)}
    ids |= {OFFICIAL_ANSWER: QUERY + task.hops}
    rows: list[list[int]] = []
    pads: list[int] = []
    puzzles: list[Puzzle] = []
    for number, line in enumerate(local_path(path).read_text().splitlines(), start=1):
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
                f"queries, got {bos}, {len(puzzle.edges)} and {len(puzzle.questions)}: use a larger task"
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
