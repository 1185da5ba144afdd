"""Copy what a finished pipeline found into benchmarks/results/<name>: numbers, report and pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.results_file import ROOT, write_result
from pipelines.cli import script_of
from pipelines.comparison import Line, comparison_lines
from pipelines.context import Context
from pipelines.evaluate import COSTS, result_of
from pipelines.full import plan
from pipelines.pipeline import Pipeline
from pipelines.steps import State, state
from pipelines.tune import TRIALS


def publish(pipeline: Pipeline, root: Path, name: str) -> Path:
    """The directory that it leaves. Raises ValueError where a step of the pipeline is not finished."""
    steps = plan(pipeline, Context(pipeline, root))
    waiting = [step.name for step in steps if state(step, root) is not State.DONE]
    if waiting:
        raise ValueError(f"{pipeline.name}: {waiting[0]} is not finished in {root}; run pipelines/full.py first")
    outputs = {script_of(step): step.output(root) for step in steps}
    lines = comparison_lines(outputs["evaluate"])
    found = {
        "preset": pipeline.name,
        "lines": {line.name: [asdict(result) for result in line.results] for line in lines},
        "costs": json.loads((outputs["evaluate"] / COSTS).read_text()),
        "step_seconds": {
            step.name: json.loads((step.output(root) / "SUCCESS").read_text())["seconds"] for step in steps
        },
    }
    if "tune" in outputs:
        found["trials"] = json.loads((outputs["tune"] / TRIALS).read_text())
    path = write_result(f"{name}/results", found)
    for file in sorted(outputs["report"].iterdir()):
        if file.suffix in (".md", ".png"):
            shutil.copy(file, ROOT / "results" / name / file.name)
    return path.parent


def published_lines(directory: Path) -> list[Line]:
    """The comparison in what `publish` left."""
    lines = json.loads((directory / "results.json").read_text())["lines"]
    return [Line(name, [result_of(record) for record in records]) for name, records in lines.items()]
