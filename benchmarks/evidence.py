"""What sleep buys: every experiment of docs/evidence.md through the pipeline, and its tables and pictures.

    python -m benchmarks.evidence [EXPERIMENT ...] [--root runs]

runs the experiments that are not finished, one after the other (kill it at any time and type it again), publishes each
in benchmarks/results/evidence, and writes its table into docs/evidence.md, whose prose is written by hand.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pages import filled
from benchmarks.publish import publish
from benchmarks.results_file import ROOT
from pipelines.presets import PRESETS, Pipeline

PAGE = ROOT.parent / "docs" / "evidence.md"
RESULTS = "evidence"


@dataclass(frozen=True)
class Experiment:
    """A mini preset on these seeds."""

    preset: str
    seeds: tuple[int, ...]

    @property
    def pipeline(self) -> Pipeline:
        return replace(PRESETS[self.preset], seeds=self.seeds)


EXPERIMENTS = {
    "rule110": Experiment("rule110-fig2b-mini", (40, 41, 42, 43, 44)),
    "eta": Experiment("ablation-eta-mini", (40, 41, 42)),
    "by-t": Experiment("rule110-by-t-mini", (40, 41, 42)),
    "rows": Experiment("rule110-rows-mini", (40, 41, 42)),
    "curriculum": Experiment("curriculum-mini", (40, 41, 42)),
    "rule": Experiment("ablation-rule-mini", (40, 41, 42)),
    "depo": Experiment("depo-fig3-mini", (40, 41, 42)),
    "gsm": Experiment("gsm-fig4-mini", (40, 41, 42)),
    "sliding": Experiment("gsm-sliding-fig5-mini", (40,)),
    "throughput": Experiment("throughput-fig6-mini", (0,)),
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.evidence", description=__doc__)
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=f"of {', '.join(EXPERIMENTS)}; all without"
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the pipelines' root")
    given = parser.parse_args()
    unknown = [name for name in given.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{unknown[0]!r}: must be one of {', '.join(EXPERIMENTS)}")
    chosen, outcomes = given.experiments or list(EXPERIMENTS), {}
    for name in chosen:
        outcomes[name] = "published" if run(name, given.root.absolute()) else "failed: see above; type it again"
    table = Table("experiment", "preset", "seeds", "outcome")
    for name, outcome in outcomes.items():
        experiment = EXPERIMENTS[name]
        table.add_row(name, experiment.preset, ", ".join(map(str, experiment.seeds)), outcome)
    Console().print(table)
    print(f"results {ROOT / 'results' / RESULTS}\npage    {PAGE}")


def run(name: str, root: Path) -> bool:
    """Finish an experiment and publish it; whether it could."""
    experiment = EXPERIMENTS[name]
    command = [sys.executable, "pipelines/full.py", experiment.preset, "--root", str(root)]
    finished = subprocess.run([*command, "--set", f"seeds={list(experiment.seeds)}"], cwd=ROOT.parent)
    if finished.returncode:
        return False
    publish(experiment.pipeline, root, f"{RESULTS}/{name}")
    PAGE.write_text(filled(PAGE.read_text(), {name: _quoted(ROOT / "results" / RESULTS / name / "report.md")}))
    return True


def _quoted(report: Path) -> str:
    """A report without its title, its pictures found from the page."""
    body = report.read_text().split("\n", 1)[1].strip()
    return re.sub(r"\]\(([^)/]+\.png)\)", rf"](../{report.parent.relative_to(ROOT.parent)}/\1)", body)


if __name__ == "__main__":
    main()
