"""The command line of a benchmark that reads trained models and a dataset."""

from __future__ import annotations

import argparse

from pipelines.arguments import positive


def model_arguments(name: str, description: str | None, data: str) -> argparse.ArgumentParser:
    """A parser of MODEL ... --data DATASET [--rows N]. data: what the dataset is, for the help."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", metavar="MODEL", nargs="+", help="a model's directory, or models:/<name>@<alias>")
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATASET",
        help=f"{data}: <root>/steps/generate/<identity>/<task>/<fingerprint>",
    )
    parser.add_argument("--rows", type=positive, help="the first N test rows; default: all")
    return parser
