"""Shell commands for the user to paste: complete, and quoted."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def python_command(*words: str) -> str:
    """A command for this interpreter: `python`, where the shell finds it by that name, else its path."""
    found = shutil.which("python")
    here = found is not None and Path(found).parent == Path(sys.executable).parent
    return shlex.join(["python" if here else sys.executable, *words])


def script_command(script: str, preset: str, root: Path, assignments: Sequence[str]) -> str:
    """The command that runs another pipeline script, which lies beside this one, with the same options."""
    path = Path(sys.argv[0]).with_name(f"{script}.py")
    return python_command(str(path), preset, "--root", str(root), *(["--set", *assignments] if assignments else []))
