"""Copy what a finished pipeline found into benchmarks/results/<name>, and render it: report and pictures."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.results_file import ROOT, provenance
from datagen.artifact import Artifact
from pipelines.config.experiment import Experiment
from pipelines.engine.stage import SUCCESS, State, Success, script_of, state
from pipelines.plan import plan
from pipelines.reporting import plots
from pipelines.reporting.comparison import VariantResults, read_variants
from pipelines.reporting.results import COSTS, READABLE, EvaluationResult
from pipelines.reporting.sections import CURVES, ReportData, sections
from pipelines.reporting.summary import MARKDOWN, markdown_summary
from pipelines.runtime.services import Services
from pipelines.stages.tune import TRIALS
from sleepmodel.distributed.trials import TrialResult, best
from sleepmodel.evaluation.latency import InferenceCost


@dataclass(frozen=True)
class Published:
    """What a finished pipeline found. variants: each one's results by seed; trials: of its search, if it has one;
    wall_seconds: from the start of its first stage to the end of the last, None where it was not published."""

    provenance: dict[str, Any]
    preset: str
    variants: dict[str, list[EvaluationResult]]
    costs: list[InferenceCost]
    stage_seconds: dict[str, float]
    trials: list[TrialResult] | None = None
    wall_seconds: float | None = None

    @property
    def comparison(self) -> list[VariantResults]:
        return [VariantResults(name, results) for name, results in self.variants.items()]


PUBLISHED = Artifact("results.json", Published, remedy="publish it again, with python -m benchmarks.evidence")


def publish(experiment: Experiment, root: Path, name: str) -> Path:
    """The directory that it leaves, to be rendered. Raises ValueError where a step of the pipeline is not finished."""
    stages = plan(experiment, Services(experiment, root))
    waiting = [stage.name for stage in stages if state(stage, root) is not State.DONE]
    if waiting:
        raise ValueError(f"{experiment.name}: {waiting[0]} is not finished in {root}; run pipelines/full.py first")
    outputs = {script_of(stage): stage.output(root) for stage in stages}
    done = {stage.name: SUCCESS.load(stage.output(root)) for stage in stages}
    found = Published(
        provenance=provenance(),
        preset=experiment.name,
        variants={variant.name: variant.results for variant in read_variants(outputs["evaluate"])},
        costs=COSTS.load(outputs["evaluate"]),
        stage_seconds={name: success.seconds for name, success in done.items()},
        trials=TRIALS.load(outputs["tune"]) if "tune" in outputs else None,
        wall_seconds=wall_seconds(done.values()),
    )
    directory = ROOT / "results" / name
    PUBLISHED.save(directory, found)
    for file in (READABLE, CURVES):
        if (outputs["report"] / file).exists():
            shutil.copy(outputs["report"] / file, directory / file)
    return directory


def wall_seconds(stages: Collection[Success]) -> float:
    """The seconds from the start of the first of these stages to the end of the last; they may run side by side."""
    ends = [datetime.fromisoformat(stage.finished).timestamp() for stage in stages]
    return max(ends) - min(end - stage.seconds for end, stage in zip(ends, stages, strict=True))


def published_variants(directory: Path) -> list[VariantResults]:
    """The comparison in what `publish` left."""
    return PUBLISHED.load(directory).comparison


def render(
    directory: Path,
    shown: tuple[str, ...] = (),
    titled: tuple[str, ...] = (),
    depth: int | None = None,
    by_depth: Mapping[str, tuple[str, ...]] | None = None,
) -> None:
    """Write the report and draw the pictures of published numbers again. Learning curves stay as they are, since
    histories are not published.

    shown: the variants in the pictures, by default all; titled: those that their titles compare; depth: where the title
        by depth compares them, by default at the greatest.
    by_depth: further pictures by depth, depths-<name>.png, and the variants that each shows and compares.
    """
    data = _data(PUBLISHED.load(directory))
    drawn = [variant for variant in data.variants if not shown or variant.name in shown]
    costs = [cost for cost in data.costs if not shown or cost.variant in shown]
    sections(replace(data, variants=drawn, costs=costs, titled=titled, depth=depth), directory)
    for name, names in (by_depth or {}).items():
        others = [variant for variant in data.variants if variant.name in names]
        style = plots.styles([variant.name for variant in others])
        plots.by_depth_or_passes(others, style, directory / f"depths-{name}.png", names)
    (directory / MARKDOWN).write_text(report_text(directory))


def report_text(directory: Path) -> str:
    """The report of published numbers, in Markdown, with links to the pictures that are there."""
    found = PUBLISHED.load(directory)
    return markdown_summary(found.preset, _data(found), directory)


def _data(found: Published) -> ReportData:
    searches = [(found.trials, best(found.trials))] if found.trials else []
    return ReportData(found.comparison, {}, {}, searches, found.costs, [])
