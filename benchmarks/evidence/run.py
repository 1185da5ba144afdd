"""Run the experiments of docs/evidence.md through the pipeline and publish their tables and pictures.

    python -m benchmarks.evidence [EXPERIMENT ...] [--root DIR]

runs the experiments that are not finished, publishes each in benchmarks/results/evidence, and fills the tables of
docs/evidence.md, docs/iterated-sleep.md and README. Without names it runs those that fit a night of ten hours on two
cores, the cheapest first. You can interrupt it at any time and run it again.

    python -m benchmarks.evidence --list      how long each takes, and which run by default; runs nothing
    python -m benchmarks.evidence --tables    tables and pictures of the pages and of README anew from what is published
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import demo
from benchmarks.arguments import command_parser
from benchmarks.evidence import breakeven, unread
from benchmarks.evidence.experiments import EXPERIMENTS, RESULTS
from benchmarks.evidence.findings import fill_readme
from benchmarks.evidence.pages import EVIDENCE
from benchmarks.evidence.publish import publish
from benchmarks.evidence.schedule import schedule, schedule_table
from benchmarks.evidence.tables import adjusted_comparisons, fill_tables
from benchmarks.results_file import ROOT
from pipelines.arguments import add_root, given_root
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS


def main() -> None:
    parser = command_parser("evidence", __doc__)
    parser.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help=f"one of {', '.join(EXPERIMENTS)}; default: those that fit a night",
    )
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--list", action="store_true", help="print how long each experiment takes, and run nothing")
    only.add_argument(
        "--tables", action="store_true", help="fill in all tables from published results, and run nothing"
    )
    add_root(parser)
    given = parser.parse_args()
    unknown = [name for name in given.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{unknown[0]!r}: must be one of {', '.join(EXPERIMENTS)}")
    if given.experiments and (given.list or given.tables):
        parser.error(f"{given.experiments[0]!r}: --list and --tables are for all experiments; leave out the name")
    if given.list:
        Console().print(schedule_table(schedule()))
    elif given.tables:
        fill_pages()
    else:
        chosen = given.experiments or [each.name for each in schedule() if each.tonight]
        _run_all(list(dict.fromkeys(chosen)), given_root(parser, given))


def _run_all(chosen: list[str], root: Path) -> None:
    outcomes = dict[str, str]()
    for name in chosen:
        try:
            outcomes[name] = run(name, root)
        except (ImportError, OSError, ValueError, subprocess.CalledProcessError) as error:  # the others go on
            outcomes[name] = f"failed: {error}; then run it again"
    table = Table("experiment", "preset", "seeds", "outcome")
    for name, outcome in outcomes.items():
        question = EXPERIMENTS[name]
        table.add_row(name, question.preset, ", ".join(map(str, question.seeds)), outcome)
    Console().print(table)
    pages = dict.fromkeys(str(EXPERIMENTS[name].page) for name in chosen)
    print(f"results {ROOT / 'results' / RESULTS}\npages   {', '.join(pages)}")


def run(name: str, root: Path) -> str:
    """Run an experiment, publish it and fill the pages; the outcome as text. The pages are filled in a process of
    their own, so that an error there does not end the night."""
    question = EXPERIMENTS[name]
    command, assignments = [sys.executable, "pipelines/full.py", question.preset], question.assignments(root)
    finished = subprocess.run([*command, "--root", str(root), "--set", *assignments], cwd=ROOT.parent)
    if finished.returncode:
        return "failed: see above, then run it again"
    publish(apply_overrides(PRESETS[question.preset], assignments), root, f"{RESULTS}/{name}")
    filled = subprocess.run([sys.executable, "-m", "benchmarks.evidence", "--tables"], cwd=ROOT.parent)
    return "published, pages not filled: see above, then run --tables" if filled.returncode else "published"


def fill_pages() -> None:
    """Render everything that is published anew."""
    demo.redraw()
    breakeven.redraw()
    unread.redraw()
    pages = dict.fromkeys(question.page for question in EXPERIMENTS.values())
    adjusted = {page: adjusted_comparisons(page) for page in pages}
    for page in pages:
        fill_tables(page, adjusted[page])
        print(f"page    {page}")
    print(f"page    {fill_readme(adjusted[EVIDENCE])}")
