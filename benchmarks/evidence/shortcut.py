"""Measure how often a guess answers a short GSM problem: the most frequent number of its text, or the commonest answer.

    python -m benchmarks.evidence.shortcut

Reads the test problems of `benchmarks.evidence gsm` and `gsm-traces`, by mode and by operations; of `gsm-traces` also
with the numbers and the distractors of the official problems. Writes benchmarks/results/evidence/told.json and fills
the tables `told` and `told-traces` of docs/evidence.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from benchmarks.arguments import command_parser
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.pages import EVIDENCE, fill
from benchmarks.results_file import write_result
from datagen import Gsm
from datagen.gsm.encoder import encoder_of
from datagen.gsm.graph import MAX_NUMBER
from datagen.gsm.problem import Problem
from datagen.gsm.text import read_context
from pipelines.config.experiment import Experiment
from pipelines.reporting.markdown import markdown_table

NUMBER, ANSWER = "most frequent number", "commonest answer"


@dataclass(frozen=True)
class Guess:
    """How often a guess is right. mode: "forward", "reverse" or "both"; operations: "2 operations" or "all"."""

    numbers: int
    distractors: str
    mode: str
    guess: str
    operations: str
    right: int
    asked: int


def most_frequent_number(problem: Problem) -> int | None:
    """The number that the text assigns to most quantities, the first of equals; None if it assigns none."""
    constants = [definition.constant for _, definition in read_context(problem.context) if not definition.operands]
    counted = Counter(number for number in constants if number is not None)
    return counted.most_common(1)[0][0] if counted else None


def guesses(task: Gsm, seed: int, rows: int) -> list[Guess]:
    """How often each guess answers so many test problems; "both" modes only if there are two."""

    def problems(split: str) -> Iterator[Problem]:
        return (sample.problem for sample in islice(task.samples(split, seed, 0), rows))

    ((commonest, _),) = Counter(problem.answer for problem in problems("train")).most_common(1)
    right, asked = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    for problem in problems("test"):
        for mode in (problem.mode, *(("both",) if task.reverse else ())):
            for guess, number in ((NUMBER, most_frequent_number(problem)), (ANSWER, commonest)):
                for operations in (f"{problem.operations} operations", "all"):
                    asked[mode, guess, operations] += 1
                    right[mode, guess, operations] += number == problem.answer
    return [Guess(task.numbers, task.distractors, *key, right[key], asked[key]) for key in sorted(asked)]


def settings(task: Gsm) -> Iterator[Gsm]:
    """The task, last, and before it the tasks that lack what makes its guesses rare."""
    for distractors in ("official", task.distractors):
        for numbers in (MAX_NUMBER, task.numbers):
            longest = encoder_of(None).longest_sentence(distractors, numbers)
            tokens = (task.tokens[0], max(task.tokens[1], task.tokens[0] + longest))
            yield replace(task, distractors=distractors, numbers=numbers, tokens=tokens)


def main(page: Path = EVIDENCE) -> None:
    found = {name: list(_found(EXPERIMENTS[name].experiment)) for name in ("gsm", "gsm-traces")}
    shares = {name: [asdict(each) for each in guessed] for name, guessed in found.items()}
    print(f"results {write_result('evidence/told', shares)}")
    heads = {"told": ("guess", "mode"), "told-traces": ("guess", "distractors", "numbers")}
    tables = {name: _table(each, head) for (name, head), each in zip(heads.items(), found.values(), strict=True)}
    fill(page, tables)
    print("\n\n".join(tables.values()))
    print(f"page    {page}")


def _found(experiment: Experiment) -> Iterator[Guess]:
    assert isinstance(experiment.task, Gsm)
    for task in settings(experiment.task) if experiment.task.traced else (experiment.task,):
        yield from guesses(task, experiment.data.seed, experiment.data.test_rows)


def _table(found: list[Guess], head: tuple[str, ...]) -> str:
    """A line for each combination of the fields in `head`, a column for each number of operations."""
    shares: dict[tuple[str, ...], dict[str, str]] = {}
    for each in sorted(found, key=lambda each: each.guess, reverse=True):
        line = tuple(str(getattr(each, name)) for name in head)
        shares.setdefault(line, {})[each.operations] = f"{each.right / each.asked:.3f}"
    columns = list(next(iter(shares.values())))
    return markdown_table((*head, *columns), [(*line, *of.values()) for line, of in shares.items()])


if __name__ == "__main__":
    command_parser("evidence.shortcut", __doc__).parse_args()
    main()
