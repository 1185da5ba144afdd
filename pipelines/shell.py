"""The commands of the other pipeline scripts, for the user to paste."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datagen.shell import python_command


def script_command(script: str, preset: str, root: Path, assignments: Sequence[str], force: bool) -> str:
    """The command that runs another pipeline script, which lies beside this one, with the same options."""
    path = Path(sys.argv[0]).with_name(f"{script}.py")
    options = [*(["--set", *assignments] if assignments else []), *(["--force"] if force else [])]
    return python_command(str(path), preset, "--root", str(root), *options)
