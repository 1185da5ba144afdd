"""Copy the results of a finished demo to benchmarks/results/demo: `python -m benchmarks.demo --root runs`."""

from __future__ import annotations

import argparse

from benchmarks.evidence.publish import publish, render
from pipelines.arguments import add_root, given_root
from pipelines.config.presets import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_root(parser)
    root = given_root(parser, parser.parse_args())
    try:
        directory = publish(PRESETS["demo"], root, "demo")
        render(directory)
        print(f"published {directory}")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
