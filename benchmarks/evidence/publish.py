"""Copy what a finished pipeline found into benchmarks/results/<name>: numbers, report and pictures.

    python -m benchmarks.evidence.publish

draws the pictures of all published numbers again. Learning curves stay as they are, since histories are not published.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results_file import ROOT, provenance
from datagen.artifact import Artifact
from pipelines.config.experiment import Experiment
from pipelines.engine.stage import SUCCESS, State, script_of, state
from pipelines.plan import plan
from pipelines.reporting.comparison import VariantResults, read_variants
from pipelines.reporting.results import COSTS, EvaluationResult
from pipelines.reporting.sections import ReportData, sections
from pipelines.runtime.services import Services
from pipelines.stages.tune import TRIALS
from sleepmodel.distributed.ray_tune import TrialResult, best
from sleepmodel.evaluation.latency import InferenceCost


@dataclass(frozen=True)
class Published:
    """What a finished pipeline found. variants: each one's results by seed; trials: of its search, if it has one."""

    provenance: dict[str, Any]
    preset: str
    variants: dict[str, list[EvaluationResult]]
    costs: list[InferenceCost]
    stage_seconds: dict[str, float]
    trials: list[TrialResult] | None = None


PUBLISHED = Artifact("results.json", Published, remedy="publish it again, with python -m benchmarks.evidence")


def publish(experiment: Experiment, root: Path, name: str) -> Path:
    """The directory that it leaves. Raises ValueError where a step of the pipeline is not finished."""
    stages = plan(experiment, Services(experiment, root))
    waiting = [stage.name for stage in stages if state(stage, root) is not State.DONE]
    if waiting:
        raise ValueError(f"{experiment.name}: {waiting[0]} is not finished in {root}; run pipelines/full.py first")
    outputs = {script_of(stage): stage.output(root) for stage in stages}
    found = Published(
        provenance=provenance(),
        preset=experiment.name,
        variants={variant.name: variant.results for variant in read_variants(outputs["evaluate"])},
        costs=COSTS.load(outputs["evaluate"]),
        stage_seconds={stage.name: SUCCESS.load(stage.output(root)).seconds for stage in stages},
        trials=TRIALS.load(outputs["tune"]) if "tune" in outputs else None,
    )
    directory = ROOT / "results" / name
    PUBLISHED.save(directory, found)
    for file in sorted(outputs["report"].iterdir()):
        if file.suffix in (".md", ".png"):
            shutil.copy(file, directory / file.name)
    return directory


def published_variants(directory: Path) -> list[VariantResults]:
    """The comparison in what `publish` left."""
    return [VariantResults(name, results) for name, results in PUBLISHED.load(directory).variants.items()]


def redraw(directory: Path) -> None:
    """Draw the pictures of published numbers again."""
    found = PUBLISHED.load(directory)
    searches = [(found.trials, best(found.trials))] if found.trials else []
    sections(ReportData(published_variants(directory), {}, {}, searches, found.costs, []), directory)


if __name__ == "__main__":
    for path in sorted((ROOT / "results").rglob(PUBLISHED.name)):
        redraw(path.parent)
        print(f"pictures {path.parent}")
