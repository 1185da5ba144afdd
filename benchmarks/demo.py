"""Publish a finished demo: `python -m benchmarks.demo --root runs` copies its results into benchmarks/results/demo."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.evidence.publish import publish
from pipelines.config.presets import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the pipeline's root")
    print(f"published {publish(PRESETS['demo'], parser.parse_args().root.absolute(), 'demo')}")


if __name__ == "__main__":
    main()
