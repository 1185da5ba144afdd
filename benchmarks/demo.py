"""Copy the results of a finished demo to benchmarks/results/demo: `python -m benchmarks.demo --root runs`."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.evidence.publish import publish
from pipelines.config.presets import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the root that the demo was run with")
    print(f"published {publish(PRESETS['demo'], parser.parse_args().root.absolute(), 'demo')}")


if __name__ == "__main__":
    main()
