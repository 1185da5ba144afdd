"""The official format: what is read, and how lines that are not in it are refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datagen.errors import DatasetError, MalformedLinesError
from datagen.gsm.official import read_lines, read_official
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
        ("}" * 2**24, "must be shorter than 16,777,216 bytes"),
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


def parquet(lines: list[dict[str, Any]]) -> bytes:
    """A file as the datasets on Hugging Face have it: with the prompt as messages, too."""
    asked = [{"role": "user", "content": "Answer the question below."}]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**line, "messages": asked} for line in lines]), sink)
    return sink.getvalue().to_pybytes()


def jsonl(lines: list[dict[str, Any]], end: str = "\n") -> bytes:
    return "".join(json.dumps(line, ensure_ascii=False) + end for line in lines).encode()


FORMS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "without a last line feed": lambda lines: jsonl(lines).removesuffix(b"\n"),
    "carriage returns": lambda lines: jsonl(lines, "\r\n"),
    "byte order mark": lambda lines: b"\xef\xbb\xbf" + jsonl(lines),
    "byte order mark on a line of its own": lambda lines: b"\xef\xbb\xbf\r\n" + jsonl(lines),
    "blank lines": lambda lines: b"\n \t\r\n" + jsonl(lines, "\n\n"),
    "other fields": lambda lines: jsonl([{"source": {"by": [1, None]}, **line, "hint": "x\u2028y"} for line in lines]),
    "gzip": lambda lines: gzip.compress(jsonl(lines)),
    "two gzip files in one": lambda lines: gzip.compress(jsonl(lines[:1])) + gzip.compress(jsonl(lines[1:])),
    "parquet": parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_has_the_same_problems(form: str, tmp_path: Path) -> None:
    lines = [LINE, {**LINE, "solution": "Così x = 4. Answer: 4."}, {**LINE, "solution": "x is 4. Answer: 4"}]
    (tmp_path / "plain.jsonl").write_bytes(jsonl(lines))
    (tmp_path / "problems").write_bytes(FORMS[form](lines))  # a download may have any name
    problems = read_official(tmp_path / "problems")
    assert problems == read_official(tmp_path / "plain.jsonl") and len(problems) == 3


@pytest.mark.parametrize("form", ["blank lines", "gzip", "parquet"])
def test_a_malformed_line_has_the_number_that_it_has_in_the_file(form: str, tmp_path: Path) -> None:
    (tmp_path / "problems").write_bytes(FORMS[form]([LINE, {**LINE, "op": 3}, LINE]))
    problems, malformed = read_lines(tmp_path / "problems")
    where = {"blank lines": "line 5", "gzip": "line 2", "parquet": "row 2"}[form]
    assert len(problems) == 2 and [line.partition(":")[0] for line in malformed] == [where]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no problem"),
        (b"\n\n", "holds no problem"),
        (b"\xef\xbb\xbf", "holds no problem"),
        (parquet([LINE]).replace(b"PAR1", b"PAR0"), "holds no problem .*\nline 1: "),
        (parquet([LINE])[:-9], "is not a whole Parquet file"),
        (gzip.compress(jsonl([LINE] * 9))[:-12], "line [0-9]+: the file is damaged"),
        (gzip.compress(jsonl([LINE]))[:12], "line 1: the file is damaged"),
        (json.dumps(LINE).encode("utf-16"), "line 1: 'utf-8' codec can't decode"),
        (parquet([{"question": "3 + 4?", "answer": "7"}]), "row 1: problem must be of type str, got None"),
    ],
)
def test_a_file_without_a_usable_problem_is_refused_as_a_whole(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "problems").write_bytes(content)
    with pytest.raises(MalformedLinesError, match=why):
        read_lines(tmp_path / "problems")


def test_a_place_may_have_in_in_its_name(tmp_path: Path) -> None:
    festival, awards = "Legends in Motion Film Fest", "Reflections in Film in Motion Awards"
    line = {
        **LINE,
        "problem": f"The number of tale of a fox in a hole in {festival} equals 3. The number of calm road movie in "
        f"{festival} equals the sum of the number of tale of a fox in a hole in {festival} and the total number of "
        f"movies in {awards}. The number of calm road movie in {awards} equals 2. The number of sly tale in Motion "
        "Awards equals 4. The number of sly tale in Motion Film Fest equals 1.",
        "question": f"What is the total number of movies in {festival}?",
        "solution": "Answer: 3 + 5 is 8. Answer: 8.",
        "op": 7,
        "template": "movie_festival_awards",
        "mode": "normalforward",
    }
    road = {
        **line,
        "question": f"How many calm road movie does {festival} have?",
        "solution": "So. Answer: 5.",
        "op": 5,
    }
    assert [problem.answer for problem in read_official(write(tmp_path / "file.jsonl", line, road))] == [8, 5]


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
