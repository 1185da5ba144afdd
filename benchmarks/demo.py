"""Copy the results of a finished demo to benchmarks/results/demo, and fill in the table of docs/demo.md.

python -m benchmarks.demo --root runs
"""

from __future__ import annotations

import argparse

from benchmarks.evidence.pages import DEMO, fill
from benchmarks.evidence.publish import publish, published_variants, render
from pipelines.arguments import add_root, given_root
from pipelines.config.presets import PRESETS
from pipelines.reporting.comparison import table_of
from pipelines.reporting.markdown import markdown_table


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_root(parser)
    root = given_root(parser, parser.parse_args())
    try:
        directory = publish(PRESETS["demo"], root, "demo")
        render(directory)
        fill(DEMO, {"demo": markdown_table(*table_of(published_variants(directory)))})
        print(f"published {directory}\npage      {DEMO}")
    except (KeyError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
