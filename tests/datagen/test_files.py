"""A file is there whole or not at all."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datagen.files import remove_temporaries, replacing
from datagen.storage import publishing


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


def test_two_publishers_of_one_directory_do_not_meet(tmp_path: Path) -> None:
    """Threads of one process, too."""
    directory = tmp_path / "model"
    with publishing(directory, last="last") as one, publishing(directory, last="last") as two:
        for each in (one, two):
            (each / "last").write_text("same")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "last"]


def test_a_directory_that_stands_without_its_last_file_is_not_passed_for_published(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "other").touch()
    with pytest.raises(OSError, match="not empty"), publishing(directory, last="last") as fresh:
        (fresh / "last").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "other"]
