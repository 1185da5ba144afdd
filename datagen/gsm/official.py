"""Reads problems in the official format of GSM-Infinite (arXiv 2502.05252): JSONL, also gzipped, or the Parquet files
of its datasets on Hugging Face. A problem may have more fields than FIELDS."""

from __future__ import annotations

import gzip
import json
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.errors import MalformedLinesError
from datagen.gsm.problem import Mode, Problem
from datagen.gsm.solver import solve
from datagen.lines import GZIP, LONGEST_LINE, PARQUET, named, whole_lines
from datagen.storage import local_path

FIELDS = {"problem": str, "question": str, "solution": str, "op": int, "template": str, "mode": str}
MODES: dict[str, Mode] = {"normalforward": "forward", "forwardreverse": "reverse"}
ANSWER = "Answer: "


def read_official(path: str | Path) -> list[Problem]:
    """The problems of a file. Each is solved: its text must give the stated answer and number of operations.

    Raises FileNotFoundError, and MalformedLinesError if the file holds no problem, or has lines that do not follow the
    format or are inconsistent; the message lists the first ten of them.
    """
    problems, malformed = read_lines(path)
    if malformed:
        raise MalformedLinesError(
            f"{path}: {len(malformed)} of its {len(malformed) + len(problems)} lines cannot be used. Correct them, or "
            f"import the others with --skip-malformed (skip_malformed=True):\n{named(malformed)}"
        )
    return problems


def read_lines(path: str | Path) -> tuple[list[Problem], list[str]]:
    """The problems of a file, and a text for each line that is none ("line 3: ..."), which names what is wrong.

    Raises FileNotFoundError, and MalformedLinesError if the file holds no problem.
    """
    problems: list[Problem] = []
    malformed: list[str] = []
    file = local_path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file: give a JSONL or Parquet file from GSM-Infinite's generator")
    for where, line in _lines(file):
        try:
            problems.append(_problem(_parsed(line) if isinstance(line, bytes) else line))
        except RecursionError:
            malformed.append(f"{where}: the JSON is nested too deeply, or a chain of definitions is too long")
        except ValueError as error:  # from JSON, TextError, NoAnswerError, integers of too many digits, bad UTF-8
            malformed.append(f"{where}: {error!s:.500}")
    if not problems:
        raise MalformedLinesError(
            f"{path} must be JSONL or Parquet from GSM-Infinite's generator, but holds no problem that can be used:\n"
            + named(malformed or ["line 1: the file ends"])
        )
    return problems, malformed


def _lines(path: Path) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """The lines of a JSONL file or the rows of a Parquet file, with their numbers. Blank lines are left out."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start == PARQUET:
            yield from _rows(path)
            return
        number = 0
        with gzip.open(file) if start.startswith(GZIP) else file as text:
            try:
                for number, line in enumerate(whole_lines(text), start=1):
                    content = line.removeprefix(BOM_UTF8) if number == 1 else line
                    if content.strip():
                        yield f"line {number}", content
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise MalformedLinesError(
                    f"{path}, line {number + 1}: the file is damaged ({error}): download or copy it again"
                ) from error


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=list(FIELDS)):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise MalformedLinesError(f"{path} is not a whole Parquet file ({error}): download or copy it again") from error


def _parsed(line: bytes) -> Any:
    if len(line) >= LONGEST_LINE:
        raise ValueError(f"must be shorter than {LONGEST_LINE:,} bytes")
    return json.loads(line.decode())


def _problem(raw: Any) -> Problem:
    if not isinstance(raw, dict):
        raise ValueError(f"not a JSON object: {raw!r:.40}")
    for name, kind in FIELDS.items():
        if type(raw.get(name)) is not kind:
            raise ValueError(f"{name} must be of type {kind.__name__}, got {raw.get(name)!r:.40}")
    if raw["mode"] not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {raw['mode']!r}")
    working, _, answer = raw["solution"].rpartition(ANSWER)
    if not working or not answer.removesuffix(".").isdecimal():
        raise ValueError(f"solution must end with {ANSWER!r} and a number, got {raw['solution'][-40:]!r}")
    problem = Problem(
        question=raw["question"].strip(),
        context=raw["problem"].strip(),
        answer=int(answer.removesuffix(".")),
        operations=raw["op"],
        solution=raw["solution"],
        theme=raw["template"],
        mode=MODES[raw["mode"]],
    )
    for name in ("problem", "question", "solution", "template"):
        raw[name].encode()  # JSON can escape half of a surrogate pair, which has no UTF-8
    solved = solve(problem.question, problem.context)
    if (solved.answer, solved.operations) != (problem.answer, problem.operations):
        raise ValueError(f"states answer {problem.answer} with op {problem.operations}, but the text gives {solved}")
    return problem
