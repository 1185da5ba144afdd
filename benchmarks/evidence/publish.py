"""Copy what a finished pipeline found into benchmarks/results/<name>: numbers, report and pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.results_file import ROOT, write_result
from pipelines.config.experiment import Experiment
from pipelines.engine.stage import State, script_of, state
from pipelines.plan import plan
from pipelines.reporting.comparison import VariantResults, read_variants
from pipelines.reporting.results import COSTS, evaluation_result
from pipelines.runtime.services import Services
from pipelines.stages.tune import TRIALS


def publish(experiment: Experiment, root: Path, name: str) -> Path:
    """The directory that it leaves. Raises ValueError where a step of the pipeline is not finished."""
    stages = plan(experiment, Services(experiment, root))
    waiting = [stage.name for stage in stages if state(stage, root) is not State.DONE]
    if waiting:
        raise ValueError(f"{experiment.name}: {waiting[0]} is not finished in {root}; run pipelines/full.py first")
    outputs = {script_of(stage): stage.output(root) for stage in stages}
    variants = read_variants(outputs["evaluate"])
    found = {
        "preset": experiment.name,
        "variants": {variant.name: [asdict(result) for result in variant.results] for variant in variants},
        "costs": json.loads((outputs["evaluate"] / COSTS).read_text()),
        "stage_seconds": {
            stage.name: json.loads((stage.output(root) / "SUCCESS").read_text())["seconds"] for stage in stages
        },
    }
    if "tune" in outputs:
        found["trials"] = json.loads((outputs["tune"] / TRIALS).read_text())
    path = write_result(f"{name}/results", found)
    for file in sorted(outputs["report"].iterdir()):
        if file.suffix in (".md", ".png"):
            shutil.copy(file, ROOT / "results" / name / file.name)
    return path.parent


def published_variants(directory: Path) -> list[VariantResults]:
    """The comparison in what `publish` left."""
    variants = json.loads((directory / "results.json").read_text())["variants"]
    return [
        VariantResults(name, [evaluation_result(record) for record in records]) for name, records in variants.items()
    ]
