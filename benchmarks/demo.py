"""Publish a finished demo: `python -m benchmarks.demo --root runs` copies its results into benchmarks/results/demo."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.results_file import ROOT, write_result
from pipelines.cli import script_of
from pipelines.comparison import comparison_lines
from pipelines.context import Context
from pipelines.evaluate import COSTS
from pipelines.full import plan
from pipelines.presets import PRESETS
from pipelines.steps import require_inputs
from pipelines.tune import TRIALS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the pipeline's root")
    root = parser.parse_args().root.absolute()
    steps = plan(PRESETS["demo"], Context(PRESETS["demo"], root))
    require_inputs(steps[-1:], root)
    outputs = {script_of(step): step.output(root) for step in steps}
    lines = {line.name: [asdict(result) for result in line.results] for line in comparison_lines(outputs["evaluate"])}
    trials = json.loads((outputs["tune"] / TRIALS).read_text())
    steps_seconds = {step.name: json.loads((step.output(root) / "SUCCESS").read_text())["seconds"] for step in steps}
    costs = json.loads((outputs["evaluate"] / COSTS).read_text())
    found = {"lines": lines, "trials": trials, "costs": costs, "step_seconds": steps_seconds}
    path = write_result("demo/results", found)
    for file in sorted(outputs["report"].iterdir()):
        if file.suffix in (".html", ".md", ".png"):
            shutil.copy(file, ROOT / "results" / "demo" / file.name)
    print(f"published {path.parent}")


if __name__ == "__main__":
    main()
