"""The parser and the solver, held to the samples of the official generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import PAD, Depo
from datagen.depo_official import read_official
from datagen.depo_text import Puzzle, parse
from datagen.rows import Ragged

OFFICIAL = Path(__file__).parent / "depo_official.jsonl"
TASK = Depo()
CYCLE = "y1 x2 y3 x2 y3 y4 y4 y1"


def official_puzzles() -> list[Puzzle]:
    vocabulary = TASK.vocabulary
    return [parse([vocabulary[token] for token in row]) for row in read_official(OFFICIAL, TASK).tokens.tolist()]


def test_the_solver_agrees_with_every_official_answer() -> None:
    questions = [(puzzle, question) for puzzle in official_puzzles() for question in puzzle.questions]
    assert len(questions) == 649
    assert all(puzzle.solve(question) == question.answer for puzzle, question in questions)


def test_official_samples_become_rows_of_the_task() -> None:
    rows = read_official(OFFICIAL, TASK)
    tokens, mask = rows.batch()
    for row, line in enumerate(OFFICIAL.read_text().splitlines()):
        sample = json.loads(line)
        text, label = sample["text"][1:], np.array(sample["label"][1:], dtype=bool)
        context = next(i for i, token in enumerate(text) if token > 9000)
        pads, end = TASK.context_length - context, TASK.context_length - context + len(text)
        assert (tokens[row, :pads] == PAD).all() and (tokens[row, end:] == PAD).all()
        ours = [token - 1 if token <= 100 else 116 if token == 9500 else token - 9001 + 100 for token in text]
        assert tokens[row, pads:end].tolist() == ours
        # Their label is ours and the "=" before each answer.
        assert (mask[row, pads:end] == label & (np.array(text) != 9500)).all()
    assert isinstance(rows.answer_depth, Ragged)
    assert set(rows.answer_depth.values) <= set(range(1, 17))


@pytest.mark.parametrize(
    ("line", "task", "message"),
    [
        ("{", TASK, "line 2: not an official sample"),
        ('{"label": []}', TASK, "line 2: not an official sample"),
        ('{"text": [0, 51, 52, 52, 51, 9017, 51, 9500, 52]}', TASK, "at most 16 hops"),
        ('{"text": [0, 51, 52, 52, 53, 9001, 51, 9500, 52]}', TASK, "one directed cycle"),
        ('{"text": [0, 51, 52, 52, 51, 9001, 51, 52]}', TASK, "not a row of Depo"),
        ('{"text": [1, 51, 52, 52, 51, 9001, 51, 9500, 52]}', TASK, "must begin with 0"),
        ('{"text": [0, 51, 52, 52, 53, 53, 54, 54, 51, 9001, 51, 9500, 52]}', Depo(3), "at most 3 nodes"),
        ('{"text": [0, 51, 52, 52, 51, 9001, 51, 9500, 52, 9001, 52, 9500, 51]}', Depo(queries=1), "and 1 queries"),
    ],
)
def test_what_is_no_official_sample_is_refused(line: str, task: Depo, message: str, tmp_path: Path) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('{"text": [0, 51, 52, 52, 51, 9001, 51, 9500, 52]}\n' + line)
    with pytest.raises(ValueError, match=message) as error:
        read_official(file, task)
    assert str(file) in str(error.value)


def test_parse_reads_names_of_one_and_two_tokens() -> None:
    puzzle = parse(f"<pad> <pad> {CYCLE} ?3 x2 y3 = x2 y3 ?2 y1 = y4".split())
    assert puzzle.edges == ((("y1",), ("x2", "y3")), (("x2", "y3"), ("y4",)), (("y4",), ("y1",)))
    assert [(question.hops, question.node, question.answer, question.start) for question in puzzle.questions] == [
        (3, ("x2", "y3"), ("x2", "y3"), 14),
        (2, ("y1",), ("y4",), 19),
    ]
    assert [puzzle.solve(question) for question in puzzle.questions] == [("x2", "y3"), ("y4",)]


def test_parse_reads_pointers_and_questions_without_hops() -> None:
    words = ["<pad>", "y1", "y2", ":", "y2", "y2", "y3", ":", "y3", "y3", "y1", ":", "y1", "?", "y2", "=", "y1"]
    puzzle = parse(words, 5)
    assert puzzle.edges == ((("y1",), ("y2",)), (("y2",), ("y3",)), (("y3",), ("y1",)))
    assert [(q.hops, q.node, puzzle.solve(q)) for q in puzzle.questions] == [(5, ("y2",), ("y1",))]
    with pytest.raises(ValueError, match="does not state its hops: pass `hops`"):
        parse(words)
    with pytest.raises(ValueError, match="must all be equally many hops ahead on the cycle"):
        parse(["y2" if word == "y3" and i == 8 else word for i, word in enumerate(words)], 5)
    further = ["y1", "y2", ":", "y3", "y2", "y3", ":", "y1", "y3", "y1", ":", "y2", "?", "y2", "=", "y1"]
    puzzle = parse(further, 3)
    assert puzzle.ahead == 2 and puzzle.solve(puzzle.questions[0]) == ("y3",)  # four hops on three nodes
    asked = "y1 y2 : y2 y3 : y3 y1 : ?4 y2 : y1 ?4 y3 : y2 ?4 y2 = y2 ?4 y3 = y3"
    puzzle = parse(asked.split())
    assert (len(puzzle.edges), puzzle.ahead) == (3, 2)
    assert [puzzle.solve(question) for question in puzzle.questions] == [("y1",), ("y2",)]
    for wrong in (asked.replace("?4 y2 :", "?3 y2 :"), asked.replace("?4 y2 : y1 ?4 y3 : y2", "?4 y3 : y2 ?4 y2 : y1")):
        with pytest.raises(ValueError, match="the pointers must be those of the questions"):
            parse(wrong.split())
    with pytest.raises(ValueError, match="must form one directed cycle"):
        parse(asked.replace("y3 y1 :", "y3 y2 :").split())


@pytest.mark.parametrize("task", [Depo(names=80), Depo(drawn="alike", stated=False)])
def test_other_names_and_rows_read_no_official_samples(task: Depo) -> None:
    with pytest.raises(ValueError, match=r"(names|stated) = .* for official samples"):
        read_official(OFFICIAL, task)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "y1 y2 : y2 y2 y1 ?1 y1 = y2",  # a pointer in one edge alone
        CYCLE,
        "?1 y1 = y1",
        f"{CYCLE} y1 ?1 y1 = y4",  # half an edge
        f"{CYCLE} ?1 y1 =",
        f"{CYCLE} ?1 y1 y4",
        f"{CYCLE} <pad> ?1 y1 = y4",  # a pad inside
        f"{CYCLE} ?1 x1 x2 y1 = y4",
        f"{CYCLE} ?1 y9 = y4",  # no such node
        "y1 y2 y2 y1 y3 y4 y4 y3 ?1 y1 = y2",  # two cycles
        "y1 y2 y2 y3 ?1 y1 = y2",  # none
        "y1 y2 y1 y3 ?1 y1 = y2",
        "y1 y2 y2 y3 y3 y2 ?1 y1 = y2",  # does not come back to its start
    ],
)
def test_parse_refuses_what_is_no_row(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text.split())


@given(st.lists(st.sampled_from(["x1", "y1", "y2", "?1", "=", "<pad>"]), max_size=12))
def test_parse_refuses_or_reads_every_word(words: list[str]) -> None:
    try:
        puzzle = parse(words)
    except ValueError:
        return
    edges = [word for edge in puzzle.edges for name in edge for word in name]
    questions = [[f"?{q.hops}", *q.node, "=", *q.answer] for q in puzzle.questions]
    assert [word for word in words if word != "<pad>"] == edges + [word for q in questions for word in q]
