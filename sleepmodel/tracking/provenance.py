"""Which code and machine made a run."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

COMMIT_TAG, DIRTY_TAG = "mlflow.source.git.commit", "sleepmodel.git.dirty"
_CODE = (":(top)*.py", ":(top)*.cpp", ":(top)pyproject.toml", ":(top)constraints.txt")


@functools.cache
def environment() -> dict[str, str]:
    """Tags that say what code and machine made a run."""
    tags = {"platform": platform.platform(), "cpus": str(os.cpu_count()), "python": platform.python_version()}
    tags |= {package: metadata.version(package) for package in ("torch", "ray", "deepspeed", "mlflow")}
    tags = {f"sleepmodel.env.{name}": value for name, value in tags.items()}
    if commit := _commit():
        # a commit does not tell what ran where files were changed since
        tags[COMMIT_TAG] = commit.removesuffix("-dirty")
        tags[DIRTY_TAG] = str(commit.endswith("-dirty")).lower()
    return tags


def _commit() -> str | None:
    """The commit that this file belongs to, with "-dirty" where its code differs; None outside a checkout."""
    here = Path(__file__)
    git = shutil.which("git")
    # an installed copy may lie in somebody else's checkout
    if git is None or not _output([git, "ls-files", here.name], here.parent):
        return None
    head = _output([git, "rev-parse", "--verify", "--quiet", "HEAD"], here.parent)
    # pages and results are written by the runs themselves
    changed = _output([git, "status", "--porcelain", "--untracked-files=no", "--", *_CODE], here.parent)
    return (head + "-dirty" if changed else head) or None


def _output(command: list[str], directory: Path) -> str:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True).stdout.strip()
