"""Reads problems in the official format of GSM-Infinite (arXiv 2502.05252): one JSON object per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datagen.errors import MalformedLinesError
from datagen.gsm.problem import Mode, Problem
from datagen.gsm.solver import solve

FIELDS = {"problem": str, "question": str, "solution": str, "op": int, "template": str, "mode": str}
MODES: dict[str, Mode] = {"normalforward": "forward", "forwardreverse": "reverse"}
ANSWER = "Answer: "
NAMED_LINES = 10  # the most that an error lists


def read_official(path: str | Path) -> list[Problem]:
    """The problems of a JSONL file. Each is solved: its text must give the stated answer and number of operations.

    Raises FileNotFoundError, and MalformedLinesError if the file is empty or has lines that do not follow the format or
    are inconsistent; the message lists the first ten of them.
    """
    problems: list[Problem] = []
    malformed: list[str] = []
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist: give the path of a JSONL file from GSM-Infinite's generator")
    # Split bytes: str.splitlines also splits at characters that JSON allows inside a string.
    for number, line in enumerate(Path(path).read_bytes().removesuffix(b"\n").split(b"\n"), start=1):
        try:
            problems.append(_read_line(line.decode()))
        except RecursionError:
            malformed.append(f"line {number}: the JSON is nested too deeply, or a chain of definitions is too long")
        except ValueError as error:  # from JSON, TextError, NoAnswerError, integers of too many digits, bad UTF-8
            malformed.append(f"line {number}: {error!s:.500}")
    if malformed:
        more = [f"and {len(malformed) - NAMED_LINES} more"] if len(malformed) > NAMED_LINES else []
        raise MalformedLinesError(
            f"{path} must be JSONL from GSM-Infinite's generator; malformed lines:\n"
            + "\n".join(malformed[:NAMED_LINES] + more)
        )
    return problems


def _read_line(line: str) -> Problem:
    raw: Any = json.loads(line)
    if not isinstance(raw, dict):
        raise ValueError(f"not a JSON object: {line[:40]!r}")
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
