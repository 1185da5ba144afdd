"""Step 6: the comparison as a table and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from datagen import Rows, read_rows
from pipelines.context import Context
from pipelines.evaluate import Result, read_results
from pipelines.generate import dataset
from pipelines.steps import Run, Step
from pipelines.tune import read_best, read_trials
from sleepmodel import plots
from sleepmodel.evaluation import Mean
from sleepmodel.job import read_history

REPORT, COMPARISON, CURVES, SEARCH = "report.md", "comparison.png", "learning-curves.png", "search.png"


@dataclass(frozen=True)
class Line:
    """One line of the comparison, over its seeds: exact match of whole rows, and of answers by depth."""

    name: str
    results: list[Result]

    @property
    def values(self) -> list[float]:
        return [result.accuracy.rows.value for result in self.results]

    @property
    def mean(self) -> Mean:
        return Mean.of(self.values)

    def cells(self) -> dict[str, str]:
        """Column -> text, for a table."""
        first = self.results[0]
        depths = sorted(first.accuracy.answers)
        by_depth = {
            f"answers at depth {d}": Mean.of([r.accuracy.answers[d].value for r in self.results]) for d in depths
        }
        return {
            "model": self.name,
            "N": str(first.sleep_passes),
            "eta": f"{first.fast_weight_lr:.3g}",
            "seeds": str(len(self.results)),
            "rows right": str(self.mean),
            **{column: str(mean) for column, mean in by_depth.items()},
            "tokens": f"{first.tokens:,}",
            "training FLOPs": f"{first.flops:.2e}",
            "seconds": f"{np.mean([result.seconds for result in self.results]):.0f}",
        }


def comparison_lines(evaluation: Path) -> list[Line]:
    """The comparison in a finished evaluation, in the order of the preset."""
    results = read_results(evaluation)
    return [Line(name, [r for r in results if r.line == name]) for name in dict.fromkeys(r.line for r in results)]


def comparison_table(lines: list[Line]) -> Table:
    """The comparison for a terminal."""
    rows = [line.cells() for line in lines]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, title="held-out test rows: mean over seeds and 95 % interval")
    for row in rows:
        table.add_row(*(row.get(column, "") for column in columns))
    return table


def report_step(evaluation: Step, data: Step, search: Step | None, context: Context) -> Step:
    """report.md with its pictures, also on the pipeline's MLflow run."""
    inputs = (evaluation, data, *((search,) if search else ()))

    def run(run: Run) -> None:
        lines = comparison_lines(run.path(evaluation))
        histories = {line.name: [read_history((run.root / r.path).parent) for r in line.results] for line in lines}
        chance = commonest_share(read_rows(dataset(run.path(data)), "test"))
        plots.comparison({line.name: (line.mean, line.values) for line in lines}, chance, run.output / COMPARISON)
        plots.learning_curves(histories, run.output / CURVES)
        sections = [_markdown_table(lines), f"![comparison]({COMPARISON})", f"![learning curves]({CURVES})"]
        if search:
            winner = read_best(run.path(search))
            plots.search(read_trials(run.path(search)), winner, run.output / SEARCH)
            sections += [
                f"The search chose N = {winner.sleep_passes}, eta = {winner.fast_weight_lr:.3g} "
                f"(validation accuracy {winner.accuracy:.3f}; of equals the one with fewer passes).",
                f"![search]({SEARCH})",
            ]
        title = f"# {context.pipeline.name}"
        note = f"Always the commonest answer: {chance:.3f}. Intervals are Student's, over seeds."
        (run.output / REPORT).write_text("\n\n".join([title, note, *sections]) + "\n")
        context.log_report(run.output)

    return Step("report", {"preset": context.pipeline.name}, run, inputs)


def commonest_share(rows: Rows) -> float:
    """The share of rows that the commonest whole answer of the split gets right: the floor of any accuracy."""
    answers = np.where(rows.loss_mask(), rows.tokens, 0)
    return float(np.unique(answers, axis=0, return_counts=True)[1].max() / len(rows))


def _markdown_table(lines: list[Line]) -> str:
    rows = [line.cells() for line in lines]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    body = [columns, ["---"] * len(columns), *([row.get(column, "") for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in body)


if __name__ == "__main__":
    from pipelines.cli import main

    main("report", __doc__)
