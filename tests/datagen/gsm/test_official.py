"""The official format: what is read, and how lines that are not in it are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datagen.errors import DatasetError, MalformedLinesError
from datagen.gsm.official import read_official
from datagen.gsm.problem import Problem
from datagen.gsm.task import encode
from datagen.gsm.vocabulary import Words

REFERENCE = Path(__file__).parents[4] / "shared" / "reference" / "gsm_infinite_official.jsonl"

LINE = {
    "problem": "The total number of schools in Ruby Bay equals 4. The number of art school in Ruby Bay exists, and its"
    " number is greater than 0. ",
    "question": "How many art school does Ruby Bay have?",
    "solution": "Define art school in Ruby Bay as x. Solution: x = 4. Answer: 4.",
    "op": 2,
    "id": 1,
    "template": "teachers_in_school",
    "mode": "forwardreverse",
    "length": "zero_context",
    "d": 2,
}


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_a_line(tmp_path: Path) -> None:
    (problem,) = read_official(write(tmp_path / "file.jsonl", LINE))
    assert problem == Problem(
        question="How many art school does Ruby Bay have?",
        context="The total number of schools in Ruby Bay equals 4. The number of art school in Ruby Bay exists, and its"
        " number is greater than 0.",
        answer=4,
        operations=2,
        solution=LINE["solution"],
        theme="teachers_in_school",
        mode="reverse",
    )
    vocabulary = Words([problem.prompt + problem.completion])
    row = encode(problem, vocabulary)
    assert vocabulary.decode(row.tokens) == f"{problem.question} {problem.context} Answer: 4"
    assert row.answer_length == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ("[1]", "not a JSON object"),
        ({**LINE, "op": "2"}, "op must be of type int, got '2'"),
        ({**LINE, "op": True}, "op must be of type int, got True"),
        ({name: LINE[name] for name in LINE if name != "problem"}, "problem must be of type str, got None"),
        ({**LINE, "mode": "sideways"}, "mode must be one of normalforward, forwardreverse, got 'sideways'"),
        ({**LINE, "solution": "x = 4."}, "solution must end with 'Answer: ' and a number"),
        ({**LINE, "solution": "Answer: four."}, "solution must end with 'Answer: ' and a number"),
        ({**LINE, "question": "How many art school?"}, "not a question about a quantity: 'How many art school?'"),
        ({**LINE, "problem": "The number of art school in Ruby Bay is 4."}, "not a statement about a quantity"),
        (
            {**LINE, "problem": "The number of art school in Ruby Bay exists, and its number is greater than 0."},
            "not determine",
        ),
        ({**LINE, "solution": "So. Answer: 5."}, "states answer 5 with op 2, but the text gives"),
        ({**LINE, "op": 3}, "states answer 4 with op 3, but the text gives"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: Any, why: str) -> None:
    path = write(tmp_path / "file.jsonl", LINE, line, LINE)
    with pytest.raises(MalformedLinesError) as raised:
        read_official(path)
    assert isinstance(raised.value, DatasetError)
    assert str(path) in str(raised.value)
    assert "line 2: " in str(raised.value)
    assert "line 1: " not in str(raised.value)
    assert why in str(raised.value)


def test_only_the_first_malformed_lines_are_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedLinesError, match=r"line 10: .*\nand 2 more$"):
        read_official(write(tmp_path / "file.jsonl", *["{"] * 12))


@pytest.mark.skipif(not REFERENCE.exists(), reason="the official samples do not lie beside the repository")
def test_reference_samples() -> None:
    """Reading solves each one anew and compares the answer and the operations."""
    problems = read_official(REFERENCE)
    assert len(problems) == 84
    assert {(problem.theme, problem.mode, problem.operations) for problem in problems} == {
        (theme, mode, operations)
        for theme in ("crazy_zootopia", "movie_festival_awards", "teachers_in_school")
        for mode in ("forward", "reverse")
        for operations in range(2, 9)
    }
    vocabulary = Words(problem.prompt + problem.completion for problem in problems)
    for problem in problems:
        row = encode(problem, vocabulary)
        assert vocabulary.decode(row.tokens) == problem.prompt + problem.completion
