"""The command lines of the benchmarks."""

from __future__ import annotations

import argparse

from pipelines.arguments import positive


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.{name}`. One without arguments refuses any before it measures."""
    return argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def model_parser(name: str, description: str | None, data: str) -> argparse.ArgumentParser:
    """A parser of MODEL ... --data DATASET [--rows N]. data: what the dataset is, for the help."""
    parser = command_parser(name, description)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="a model's directory, or models:/<name>@<alias>")
    parser.add_argument(
        "--data",
        required=True,
        metavar="DATASET",
        help=f"{data}: <root>/steps/generate/<identity>/<task>/<fingerprint>",
    )
    parser.add_argument("--rows", type=positive, help="the first N test rows; default: all")
    return parser
