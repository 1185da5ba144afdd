"""The arguments of the pipeline scripts."""

from __future__ import annotations

import argparse
import os
import textwrap
from pathlib import Path

from datagen.storage import as_path, check_reachable, in_store
from pipelines.config.presets import PRESETS


def parser(script: str, description: str | None) -> argparse.ArgumentParser:
    """All scripts share their arguments; generate.py can also import problems."""
    result = argparse.ArgumentParser(
        f"pipelines/{script}.py",
        description=description,
        epilog=_preset_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "preset", nargs="?", default="demo", choices=list(PRESETS), metavar="PRESET", help="default: demo"
    )
    result.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, the state of each stage and the cost of training",
    )
    result.add_argument(
        "--root",
        metavar="DIR",
        help="directory or s3://bucket/prefix for all results; default: $SLEEPMODEL_ROOT, else ./runs",
    )
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
        group.add_argument("--import", dest="imported", metavar="FILE.jsonl", help="the problems")
        group.add_argument("--task", choices=["gsm"], help="what the file holds; needed with --import")
        group.add_argument("--split", metavar="NAME", help="name of the new split; default: test")
        group.add_argument("--tokenizer", metavar="FILE.json", help="a tokenizer.json; default: one token per word")
    return result


def parse(script: str, description: str | None) -> argparse.Namespace:
    """The command line. Exits with status 2 where the arguments do not go together."""
    known = parser(script, description)
    given = known.parse_args()
    if script == "generate":
        if given.imported and given.task is None:
            known.error("--import needs --task gsm, which says what the file holds")
        for name in ("task", "split", "tokenizer"):
            if getattr(given, name) is not None and not given.imported:
                known.error(f"--{name} needs --import FILE.jsonl; to change the preset's task, use --set")
    return given


def absolute_root(given: str | None) -> Path:
    """The absolute root. Raises ValueError where results could not be written or would be lost."""
    root = given or os.environ.get("SLEEPMODEL_ROOT") or "runs"
    path = as_path(root)
    if in_store(path):
        check_reachable(path)
        return path
    path = path.expanduser().absolute()
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
