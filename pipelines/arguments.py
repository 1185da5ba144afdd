"""The arguments of the pipeline scripts."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path

from datagen.storage import as_path, check_reachable, in_store
from datagen.task import SPLITS
from pipelines.config.presets import PRESETS

ROOT_VARIABLE = "SLEEPMODEL_ROOT"
DEFAULT_PRESET = "demo"


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """All scripts share their arguments; generate.py can also import problems."""
    result = argparse.ArgumentParser(
        f"pipelines/{script}.py",
        description=description,
        epilog=_preset_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "preset",
        nargs="?",
        default=DEFAULT_PRESET,
        choices=list(PRESETS),
        metavar="PRESET",
        help=f"default: {DEFAULT_PRESET}",
    )
    result.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, the state of each stage and the cost of training",
    )
    add_root(result)
    result.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="a.b.c=value",
        help="change fields of the preset, such as train.steps=2000",
    )
    result.add_argument("--force", action="store_true", help="run a preset of the paper's size on CPUs")
    if script == "generate":
        group = result.add_argument_group("import problems of GSM-Infinite's own generator, instead of a preset")
        group.add_argument(
            "--import", dest="imported", type=filled, metavar="FILE.jsonl", help="the problems: JSONL, .gz or Parquet"
        )
        group.add_argument("--task", choices=["gsm"], help="what the file holds; needed with --import")
        group.add_argument("--split", choices=SPLITS, help="name of the new split; default: test")
        group.add_argument(
            "--tokenizer", type=filled, metavar="FILE.json", help="a tokenizer.json; default: one token per word"
        )
        group.add_argument(
            "--skip-malformed",
            action="store_true",
            help="leave out lines that are no problem; default: refuse the file",
        )
    return result


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add --root, for `absolute_root`."""
    parser.add_argument(
        "--root",
        type=filled,
        metavar="DIR",
        help="directory or s3://bucket/prefix for all results; default: $SLEEPMODEL_ROOT, else ./runs",
    )


def given_root(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Path:
    """The absolute root that was given to `add_root`. Exits with status 2 where it cannot be used."""
    try:
        return absolute_root(given.root)
    except (ValueError, OSError) as error:
        parser.error(str(error))


def positive(text: str) -> int:
    """The type of an argument that is a number of things."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, 1 or more")
    return int(text)


def filled(text: str) -> str:
    """The type of an argument that may not be empty, as an unset variable in quotes is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def parse(script: str, description: str | None) -> argparse.Namespace:
    """The command line. Exits with status 2 where the arguments do not go together."""
    known = parser(script, description)
    known.set_defaults(preset=None)  # to see whether one is given
    given = known.parse_args()
    imports = script == "generate" and given.imported is not None
    if imports and given.task is None:
        known.error("--import needs --task gsm, which says what the file holds")
    if imports and (given.preset or given.set or given.force):
        ignored = f"PRESET {given.preset}" if given.preset else "--set" if given.set else "--force"
        known.error(f"{ignored} has no effect on --import, which takes no preset: leave one of them out")
    if script == "generate" and not imports:
        for name in ("task", "split", "tokenizer", "skip_malformed"):
            if getattr(given, name):
                flag = name.replace("_", "-")
                known.error(f"--{flag} needs --import FILE.jsonl; to change the preset's task, use --set")
    given.preset = given.preset or DEFAULT_PRESET
    return given


def absolute_root(given: str | None) -> Path:
    """The absolute root. Raises ValueError where results could not be written or would be lost."""
    root = given or os.environ.get(ROOT_VARIABLE) or "runs"
    path = as_path(root)
    if in_store(path):
        check_reachable(path)
        return path
    path = path.absolute()
    if any(part.startswith("_ray_pkg_") for part in path.parts):
        raise ValueError(
            f"root = {root!r}: lies in Ray's temporary copy of the working directory, where results would be lost; "
            "set SLEEPMODEL_ROOT before `ray start`, or give --root, as an absolute path"
        )
    if path.exists() and not path.is_dir():
        raise ValueError(f"root = {root!r}: is a file; must be a directory")
    return path


def _preset_list() -> str:
    small = [name for name, experiment in PRESETS.items() if not experiment.paper_scale]
    large = [name for name, experiment in PRESETS.items() if experiment.paper_scale]
    groups = {"on two CPU cores": small, "of the paper's size, on GPUs": large}
    paragraphs = [
        textwrap.fill(
            f"{title}: {', '.join(names)}",
            width=100,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
        for title, names in groups.items()
    ]
    return "\n".join(["presets (docs/presets.md describes each):", *paragraphs])
