"""What short GSM problems give away: who says the number that the text tells most often is right how often?

    python -m benchmarks.evidence.shortcut

The test problems of `benchmarks.evidence gsm`, by mode and by operations; fills its table in docs/evidence.md.
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


def most_told(problem: Problem) -> int | None:
    """The number that most quantities are said to equal, the first one of equals; None where none is."""
    told = [definition.constant for _, definition in read_context(problem.context) if not definition.operands]
    counted = Counter(number for number in told if number is not None)
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
                right[mode, operations] += most_told(problem) == problem.answer
    modes, columns = sorted({mode for mode, _ in asked}), sorted({operations for _, operations in asked})
    rows = [(mode, *(f"{right[mode, c] / asked[mode, c]:.3f}" for c in columns)) for mode in modes]
    counts = [
        {"mode": mode, "operations": operations, "right": right[mode, operations], "asked": asked[mode, operations]}
        for mode, operations in sorted(asked)
    ]
    print(f"results {write_result('evidence/told', {'preset': experiment.name, 'shares': counts})}")
    block = markdown_table(("the number told most often", *columns), rows)
    fill(EVIDENCE, {"told": block})
    print(f"{block}\npage    {EVIDENCE}")


if __name__ == "__main__":
    main()
