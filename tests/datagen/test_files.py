"""A file is there whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datagen.files import remove_temporaries, replacing


def test_an_error_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(OSError, match="disk full"), replacing(file) as temporary:
        temporary.write_text("ne")
        raise OSError("disk full")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_kill_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    program = f"""
import os, pathlib, signal
from datagen.files import replacing
with replacing(pathlib.Path({str(file)!r})) as temporary:
    temporary.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2

    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    """Ray may run a task twice."""
    file = tmp_path / "new" / "file"
    with replacing(file) as one, replacing(file) as two:
        one.write_text("same")
        two.write_text("same")
    assert file.read_text() == "same"
    assert list(file.parent.iterdir()) == [file]
