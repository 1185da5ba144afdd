"""Step 6: the comparison as a table and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.context import Context
from pipelines.evaluate import Result, read_results
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
    def label(self) -> str:
        first = self.results[0]
        return f"{self.name}\nN = {first.sleep_passes}, eta = {first.fast_weight_lr:.3g}"

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
        # where a row asks one thing, its rows right are its answers right
        several = sum(share.total for share in first.accuracy.answers.values()) > first.accuracy.rows.total
        by_depth = {f"depth {d}": Mean.of([r.accuracy.answers[d].value for r in self.results]) for d in depths}
        return {
            "model": self.name,
            "N": str(first.sleep_passes),
            "eta": f"{first.fast_weight_lr:.3g}",
            **({"rows right": str(self.mean)} if several else {}),
            **{column: str(mean) for column, mean in by_depth.items()},
            "tokens": f"{first.tokens / 1e6:.3g}M",
            "FLOPs": f"{first.flops:.2g}",
            "s": f"{np.mean([result.seconds for result in self.results]):.0f}",
        }


def comparison_lines(evaluation: Path) -> list[Line]:
    """The comparison in a finished evaluation, in the order of the preset."""
    results = read_results(evaluation)
    return [Line(name, [r for r in results if r.line == name]) for name in dict.fromkeys(r.line for r in results)]


def comparison_table(lines: list[Line]) -> Table:
    """The comparison for a terminal."""
    columns, rows = _cells(lines)
    seeds = max(len(line.results) for line in lines)
    table = Table(title=f"held-out test rows, mean and 95 % interval over {seeds} seeds", box=SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def report_step(evaluation: Step, searches: list[Step], context: Context) -> Step:
    """report.md with its pictures, also on the pipeline's MLflow run."""

    def run(run: Run) -> None:
        lines = comparison_lines(run.path(evaluation))
        histories = {line.name: [read_history((run.root / r.path).parent) for r in line.results] for line in lines}
        plots.comparison({line.label: (line.values, line.results[0].floor) for line in lines}, run.output / COMPARISON)
        plots.learning_curves(histories, run.output / CURVES)
        sections = [_markdown_table(lines), f"![comparison]({COMPARISON})", f"![learning curves]({CURVES})"]
        for search in searches:
            winner = read_best(run.path(search))
            plots.search(read_trials(run.path(search)), winner, run.output / SEARCH)
            sections += [
                f"The search chose N = {winner.sleep_passes}, eta = {winner.fast_weight_lr:.3g} "
                f"(validation accuracy {winner.accuracy:.3f}; of equals the one with fewer passes).",
                f"![search]({SEARCH})",
            ]
        title = f"# {context.pipeline.name}"
        note = (
            "Shares of held-out test rows that are wholly right; intervals are Student's, 95 %, over seeds. Training "
            f"FLOPs are three times the forward's. The commonest answer alone gets {lines[0].results[0].floor:.3f}."
        )
        (run.output / REPORT).write_text("\n\n".join([title, note, *sections]) + "\n")
        context.log_report(run.output)

    return Step("report", {"preset": context.pipeline.name}, run, (evaluation, *searches))


def _cells(lines: list[Line]) -> tuple[list[str], list[list[str]]]:
    """The columns of any line, and a row of text a line."""
    cells = [line.cells() for line in lines]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    return columns, [[row.get(column, "") for column in columns] for row in cells]


def _markdown_table(lines: list[Line]) -> str:
    columns, rows = _cells(lines)
    body = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in body)


if __name__ == "__main__":
    from pipelines.cli import main

    main("report", __doc__)
