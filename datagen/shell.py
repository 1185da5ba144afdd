"""Shell commands for the user to paste: complete, and quoted."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def python_command(*words: str) -> str:
    """A command for this interpreter: `python`, where the shell finds it by that name, else its path."""
    found = shutil.which("python")
    here = found is not None and Path(found).parent == Path(sys.executable).parent
    return shlex.join(["python" if here else sys.executable, *words])
