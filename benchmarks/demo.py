"""Copy the results of a finished demo to benchmarks/results/demo, and fill in the table of docs/demo.md.

python -m benchmarks.demo --root runs
"""

from __future__ import annotations

from benchmarks.arguments import command_parser
from benchmarks.evidence.pages import DEMO, fill
from benchmarks.evidence.publish import PUBLISHED, Published, publish, render
from benchmarks.results_file import ROOT
from pipelines.arguments import add_root, given_root
from pipelines.config.presets import PRESETS
from pipelines.reporting.comparison import table_of
from pipelines.reporting.markdown import markdown_table

RESULTS = ROOT / "results" / "demo"


def main() -> None:
    parser = command_parser("demo", __doc__)
    add_root(parser)
    root = given_root(parser, parser.parse_args())
    try:
        publish(PRESETS["demo"], root, RESULTS.name)
        redraw()
        print(f"published {RESULTS}\npage      {DEMO}")
    except (KeyError, ValueError) as error:
        parser.error(str(error))


def redraw() -> None:
    """Write the report and draw the pictures of the published demo again, and fill in the table of its page."""
    render(RESULTS)
    found = PUBLISHED.load(RESULTS)
    fill(DEMO, {"demo": markdown_table(*table_of(found.comparison)) + duration(found)})


def duration(found: Published) -> str:
    """A paragraph that says how long the run took; "" where that was not published."""
    if found.wall_seconds is None:
        return ""
    machine = f"{found.provenance['cpu_count']} cores ({found.provenance['cpu']})"
    return f"\n\nThe stages took {found.wall_seconds / 60:.1f} minutes together, on {machine}."


if __name__ == "__main__":
    main()
