"""Step 6: the comparison as a page to read, and as Markdown with pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.comparison import comparison_lines, floor_of, interval_of, table_of
from pipelines.context import Context
from pipelines.evaluate import READABLE, read_costs, read_mistakes
from pipelines.page import page
from pipelines.sections import COMPARISON, CURVES, SEARCH, Findings, sections
from pipelines.steps import Run, Step
from pipelines.tune import read_best, read_trials
from sleepmodel.job import read_history

REPORT, MARKDOWN = "report.html", "report.md"


def report_step(evaluation: Step, searches: list[Step], context: Context) -> Step:
    """The page, the Markdown and their pictures, also on the pipeline's MLflow run."""

    def run(run: Run) -> None:
        evaluated = run.path(evaluation)
        lines = comparison_lines(evaluated)
        models = {line.name: [run.root / result.path for result in line.results] for line in lines}
        findings = Findings(
            lines=lines,
            histories={name: [read_history(path.parent) for path in paths] for name, paths in models.items()},
            settings={name: _settings(paths[0]) for name, paths in models.items()},
            searches=[(read_trials(run.path(search)), read_best(run.path(search))) for search in searches],
            costs=read_costs(evaluated),
            mistakes=read_mistakes(evaluated),
        )
        html = page(context.pipeline.name, sections(findings, run.output))
        (run.output / REPORT).write_text(html, encoding="utf-8")
        (run.output / MARKDOWN).write_text(_markdown(context.pipeline.name, findings), encoding="utf-8")
        (run.output / READABLE).write_text((evaluated / READABLE).read_text(encoding="utf-8"), encoding="utf-8")
        context.log_report(run.output)

    return Step("report", {"preset": context.pipeline.name}, run, (evaluation, *searches), version=3)


def _settings(model: Path) -> dict[str, Any]:
    """The config of a trained model and of its training, nested."""
    trained = json.loads((model.parent / "config.json").read_text())["config"]["train"]
    return {"model": json.loads((model / "config.json").read_text()), "train": trained}


def _markdown(title: str, findings: Findings) -> str:
    """The table and the pictures: what a README can quote."""
    lines = findings.lines
    note = (
        f"Shares of held-out test rows that are wholly right, with their {interval_of(lines)}. Training "
        f"FLOPs are three times the forward's. The commonest answer alone gets {floor_of(lines)}."
    )
    parts = [
        f"# {title}",
        note,
        markdown_table(*table_of(lines)),
        f"![comparison]({COMPARISON})",
        f"![learning curves]({CURVES})",
    ]
    for _, winner in findings.searches:
        parts += [
            f"The search chose N = {winner.sleep_passes}, eta = {winner.fast_weight_lr:.3g} "
            f"(validation accuracy {winner.accuracy:.3f}; of equals the one with fewer passes).",
            f"![search]({SEARCH})",
        ]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table in Markdown."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


if __name__ == "__main__":
    from pipelines.cli import main

    main("report", __doc__)
