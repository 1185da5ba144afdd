"""The arguments of the pipeline scripts."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path

from datagen.storage import as_path, check_reachable, in_store
from datagen.task import SPLITS
from datagen.text.options import LOSSES, MAX_TOKENS
from pipelines.config.presets import PRESETS

ROOT_VARIABLE = "SLEEPMODEL_ROOT"
DEFAULT_PRESET = "demo"


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """All scripts share their arguments; generate.py can also import files."""
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
        type=_preset,
        metavar="PRESET",
        help=f"default: {DEFAULT_PRESET}; or module:function, which returns an Experiment (docs/extending.md)",
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
        _add_import(result.add_argument_group("import files, instead of generating the datasets of a preset"))
    return result


def _add_import(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--import",
        dest="imported",
        nargs="+",
        type=filled,
        metavar="FILE",
        help="JSONL or Parquet; for text also plain text, Markdown and folders; each may be gzipped",
    )
    group.add_argument(
        "--task",
        choices=["gsm", "text"],
        help="what the files hold, needed with --import. gsm: one file of problems of GSM-Infinite's own generator; "
        "text: prompts with completions, chats (messages), plain text",
    )
    group.add_argument(
        "--split", choices=SPLITS, help="of everything that is imported; default: test for gsm, for text by a hash"
    )
    group.add_argument(
        "--tokenizer",
        type=filled,
        metavar="FILE.json",
        help="a tokenizer.json, or a directory with one; default: one token per word for gsm, per byte for text",
    )
    group.add_argument(
        "--skip-malformed", action="store_true", help="leave out lines that cannot be used; default: refuse all"
    )
    group.add_argument(
        "--loss",
        choices=LOSSES,
        help="what a model learns to predict of a text; default: completions where there are any, else all",
    )
    group.add_argument(
        "--max-tokens",
        type=positive,
        metavar="N",
        help=f"of a document of plain text, which is cut where it is longer; default: {MAX_TOKENS:,}",
    )


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


def _preset(text: str) -> str:
    if text in PRESETS or ":" in text:
        return text
    raise argparse.ArgumentTypeError(f"invalid choice: {text!r}: must be {', '.join(PRESETS)}, or module:function")


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
        known.error("--import needs --task gsm or --task text, which says what the files hold")
    if imports and given.task == "gsm":
        if len(given.imported) > 1:
            known.error(f"--task gsm imports one file, got {len(given.imported)}: import each on its own")
        for name in ("loss", "max_tokens"):
            if getattr(given, name):
                known.error(f"--{name.replace('_', '-')} needs --task text: problems have their answers")
    if imports and (given.preset or given.set or given.force):
        ignored = f"PRESET {given.preset}" if given.preset else "--set" if given.set else "--force"
        known.error(f"{ignored} has no effect on --import, which takes no preset: leave one of them out")
    if script == "generate" and not imports:
        for name in ("task", "split", "tokenizer", "skip_malformed", "loss", "max_tokens"):
            if getattr(given, name):
                flag = name.replace("_", "-")
                known.error(f"--{flag} needs --import FILE; to change the preset's task, use --set")
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
