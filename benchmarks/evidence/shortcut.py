"""Measure how often the most frequent number of a short GSM problem is its answer, which a model can thus guess.

    python -m benchmarks.evidence.shortcut

Reads the test problems of `benchmarks.evidence gsm`, by mode and by operations. Writes
benchmarks/results/evidence/told.json and fills the `told` table of docs/evidence.md.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice

from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.pages import EVIDENCE, fill
from benchmarks.results_file import write_result
from datagen import Gsm
from datagen.gsm.problem import Problem
from datagen.gsm.text import read_context
from pipelines.reporting.markdown import markdown_table


def most_frequent_number(problem: Problem) -> int | None:
    """The number that the text assigns to most quantities, the first of equals; None if it assigns none."""
    constants = [definition.constant for _, definition in read_context(problem.context) if not definition.operands]
    counted = Counter(number for number in constants if number is not None)
    return counted.most_common(1)[0][0] if counted else None


def main() -> None:
    experiment = EXPERIMENTS["gsm"].experiment
    assert isinstance(experiment.task, Gsm)
    samples = islice(experiment.task.samples("test", experiment.data.seed, 0), experiment.data.test_rows)
    right, asked = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for sample in samples:
        problem = sample.problem
        for mode in (problem.mode, "both"):
            for operations in (f"{problem.operations} operations", "all"):
                asked[mode, operations] += 1
                right[mode, operations] += most_frequent_number(problem) == problem.answer
    modes, columns = sorted({mode for mode, _ in asked}), sorted({operations for _, operations in asked})
    rows = [(mode, *(f"{right[mode, c] / asked[mode, c]:.3f}" for c in columns)) for mode in modes]
    counts = [
        {"mode": mode, "operations": operations, "right": right[mode, operations], "asked": asked[mode, operations]}
        for mode, operations in sorted(asked)
    ]
    print(f"results {write_result('evidence/told', {'preset': experiment.name, 'shares': counts})}")
    block = markdown_table(("problems", *columns), rows)
    fill(EVIDENCE, {"told": block})
    print(f"{block}\npage    {EVIDENCE}")


if __name__ == "__main__":
    main()
