"""Reads problems in the official format of GSM-Infinite (arXiv 2502.05252): a JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datagen.errors import MalformedLinesError
from datagen.gsm.problem import Mode, Problem
from datagen.gsm.solver import NoAnswerError, solve
from datagen.gsm.text import TextError

FIELDS = {"problem": str, "question": str, "solution": str, "op": int, "template": str, "mode": str}
MODES: dict[str, Mode] = {"normalforward": "forward", "forwardreverse": "reverse"}
ANSWER = "Answer: "
NAMED_LINES = 10  # in an error


def read_official(path: str | Path) -> list[Problem]:
    """The problems of a JSONL file, each solved anew: its text must give the stated answer and number of operations.

    Raises MalformedLinesError, which names the first lines that are not in the format or not consistent.
    """
    problems: list[Problem] = []
    malformed: list[str] = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            problems.append(_read_line(line))
        except (json.JSONDecodeError, _LineError, TextError, NoAnswerError) as error:
            malformed.append(f"line {number}: {error}")
    if malformed:
        more = [f"and {len(malformed) - NAMED_LINES} more"] if len(malformed) > NAMED_LINES else []
        raise MalformedLinesError(
            f"{path}, which is to be GSM-Infinite JSONL:\n" + "\n".join(malformed[:NAMED_LINES] + more)
        )
    return problems


class _LineError(ValueError):
    """What is wrong with one line."""


def _read_line(line: str) -> Problem:
    raw: Any = json.loads(line)
    if not isinstance(raw, dict):
        raise _LineError(f"not a JSON object: {line[:40]!r}")
    for name, kind in FIELDS.items():
        if type(raw.get(name)) is not kind:
            raise _LineError(f"{name} must be of type {kind.__name__}, got {raw.get(name)!r:.40}")
    if raw["mode"] not in MODES:
        raise _LineError(f"mode must be one of {', '.join(MODES)}, got {raw['mode']!r}")
    working, _, answer = raw["solution"].rpartition(ANSWER)
    if not working or not answer.removesuffix(".").isdecimal():
        raise _LineError(f"solution must end with {ANSWER!r} and a number, got {raw['solution'][-40:]!r}")
    problem = Problem(
        question=raw["question"].strip(),
        context=raw["problem"].strip(),
        answer=int(answer.removesuffix(".")),
        operations=raw["op"],
        solution=raw["solution"],
        theme=raw["template"],
        mode=MODES[raw["mode"]],
    )
    solved = solve(problem.question, problem.context)
    if (solved.answer, solved.operations) != (problem.answer, problem.operations):
        raise _LineError(f"answer {problem.answer} with op {problem.operations} is stated, the text gives {solved}")
    return problem
