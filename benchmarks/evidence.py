"""What sleep buys: every experiment of docs/evidence.md through the pipeline, and its tables and pictures.

    python -m benchmarks.evidence [EXPERIMENT ...] [--root runs]

runs the experiments that are not finished, one after the other (kill it at any time and type it again), publishes each
in benchmarks/results/evidence, and writes its tables into docs/evidence.md, whose prose is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.pages import EVIDENCE, fill
from benchmarks.publish import publish, published_lines
from benchmarks.results_file import ROOT
from pipelines.comparison import difference
from pipelines.pipeline import Pipeline
from pipelines.presets import PRESETS, RULES
from pipelines.report import markdown_table

RESULTS = "evidence"


@dataclass(frozen=True)
class Experiment:
    """A mini preset on these seeds.

    pairs: lines whose difference is what the experiment asks for; speed: it asks how fast training is, and no model of
        it has learned anything.
    """

    preset: str
    seeds: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    speed: bool = False

    @property
    def pipeline(self) -> Pipeline:
        return replace(PRESETS[self.preset], seeds=self.seeds)


THREE = (40, 41, 42)
GAINS = (("n2", "n1"), ("n4", "n1"), ("n4", "n2"))
CONTROLS = tuple(("n4", control) for control in ("n1-same-compute", "n1-same-compute-epochs", "n1-deep"))

EXPERIMENTS = {
    "rule110": Experiment(
        "rule110-fig2b-mini", (*THREE, 43, 44), (*GAINS, *CONTROLS, ("n2", "n1-same-compute"), ("n2", "n1-deep"))
    ),
    "rows": Experiment("rule110-rows-mini", THREE, (*GAINS, CONTROLS[0], ("n2", "n1-same-compute"))),
    "by-t": Experiment(
        "rule110-by-t-mini", THREE, tuple((f"n{n}-t{t}", f"n1-t{t}") for t in (2, 4, 8, 10) for n in (2, 4))
    ),
    "curriculum": Experiment("curriculum-mini", THREE, (("n4", "n1"), ("pass-a-step", "n1"), ("n1", "n1-all-at-once"))),
    "eta": Experiment(
        "ablation-eta-mini",
        THREE,
        tuple((f"eta{eta}-n{n}", f"eta1-n{n}") for n in (1, 2, 4) for eta in (0.5, 1.5, 2))
        + tuple((f"eta{eta}-n{n}", f"eta{eta}-n1") for eta in (1, 2) for n in (2, 4)),
    ),
    "rule": Experiment(
        "ablation-rule-mini",
        THREE,
        tuple((f"{rule}-n4", f"{rule}-n1") for rule in RULES),
    ),
    "depo": Experiment("depo-fig3-mini", THREE, GAINS),
    "gsm": Experiment("gsm-fig4-mini", THREE, GAINS),
    "sliding": Experiment("gsm-sliding-fig5-mini", (40,)),
    "throughput": Experiment("throughput-fig6-mini", (0,), speed=True),
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
    print(f"results {ROOT / 'results' / RESULTS}\npage    {EVIDENCE}")


def run(name: str, root: Path) -> bool:
    """Finish an experiment and publish it; whether it could."""
    experiment = EXPERIMENTS[name]
    command = [sys.executable, "pipelines/full.py", experiment.preset, "--root", str(root)]
    finished = subprocess.run([*command, "--set", f"seeds={list(experiment.seeds)}"], cwd=ROOT.parent)
    if finished.returncode:
        return False
    published = publish(experiment.pipeline, root, f"{RESULTS}/{name}")
    told = _speed(published) if experiment.speed else _quoted(published / "report.md")
    fill(EVIDENCE, {name: told + _differences(published, experiment)})
    return True


def _differences(published: Path, experiment: Experiment) -> str:
    """The differences that an experiment asks for, as a table; "" where it asks for none."""
    lines = {line.name: line for line in published_lines(published)}
    found = [difference(lines[better], lines[other]) for better, other in experiment.pairs]
    rows = [
        (f"{each.better} - {each.other}", str(each), str(each.mean.seeds), "yes" if each.clear else "no")
        for each in found
        if each
    ]
    head = ("rows right, seed against the same seed", "difference, 95 % interval", "seeds", "clear of 0")
    return "\n\n" + markdown_table(head, rows) if rows else ""


def _speed(published: Path) -> str:
    """Tokens per second of training by window and N, and as shares of those at N = 1."""
    results = json.loads((published / "results.json").read_text())
    rates: dict[int, dict[int, float]] = {}
    for cost in results["costs"]:
        (trained,) = results["lines"][cost["line"]]
        rates.setdefault(cost["window"], {})[cost["sleep_passes"]] = trained["tokens_per_second"]
    rows = [
        (f"{window:,}", *(f"{rate:,.0f} ({rate / by_passes[1]:.2f})" for rate in by_passes.values()))
        for window, by_passes in sorted(rates.items())
    ]
    passes = sorted(next(iter(rates.values())))
    return markdown_table(("window", *(f"tokens/s at N = {n}" for n in passes)), rows)


def _quoted(report: Path) -> str:
    """A report without its title, its pictures found from the page."""
    body = report.read_text().split("\n", 1)[1].strip()
    return re.sub(r"\]\(([^)/]+\.png)\)", rf"](../{report.parent.relative_to(ROOT.parent)}/\1)", body)


if __name__ == "__main__":
    main()
