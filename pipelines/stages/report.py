"""The report: the comparison as an HTML page, and as Markdown with pictures."""

from __future__ import annotations

from dataclasses import asdict

from pipelines.engine.stage import Stage, StageContext
from pipelines.reporting.comparison import read_variants
from pipelines.reporting.results import COSTS, MISTAKES, READABLE
from pipelines.runtime.services import Services
from pipelines.stages.tune import TRIALS
from sleepmodel.distributed.job import read_training
from sleepmodel.distributed.trials import best

REPORT = "report.html"


def report_stage(evaluation: Stage, searches: list[Stage], services: Services) -> Stage:
    """The stage that writes the report and logs it to the pipeline's MLflow run."""

    def run(context: StageContext) -> None:
        # imported here, as a plan draws no pictures
        from pipelines.reporting.html import page
        from pipelines.reporting.sections import ReportData, sections
        from pipelines.reporting.summary import MARKDOWN, markdown_summary

        evaluated = context.path(evaluation)
        variants = read_variants(evaluated)
        trainings = {
            variant.name: [read_training((context.root / result.path).parent) for result in variant.results]
            for variant in variants
        }
        searched = [TRIALS.load(context.path(search)) for search in searches]
        data = ReportData(
            variants=variants,
            histories={name: [record.history for record in records] for name, records in trainings.items()},
            settings={
                name: {"model": asdict(first.model), "train": asdict(first.train)}
                for name, (first, *_) in trainings.items()
            },
            searches=[(trials, best(trials)) for trials in searched],
            costs=COSTS.load(evaluated),
            mistakes=MISTAKES.load(evaluated),
        )
        html = page(services.experiment.name, sections(data, context.output))
        (context.output / REPORT).write_text(html, encoding="utf-8")
        (context.output / MARKDOWN).write_text(
            markdown_summary(services.experiment.name, data, context.output), encoding="utf-8"
        )
        (context.output / READABLE).write_text((evaluated / READABLE).read_text(encoding="utf-8"), encoding="utf-8")
        services.log_report(context.output)

    return Stage("report", {"preset": services.experiment.name}, run, (evaluation, *searches), version=11)
