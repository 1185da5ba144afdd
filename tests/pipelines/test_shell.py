"""The commands that are printed for the user: what a shell makes of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from pipelines.shell import script_command
from tests.waiting import run


@pytest.mark.parametrize("path", [str(Path(sys.executable).parent), "/usr/bin:/bin", ""])
def test_a_shell_gives_the_script_the_same_arguments(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it finds this interpreter as `python`, another one, or none."""
    scripts = tmp_path / "a checkout's scripts"
    scripts.mkdir()
    (scripts / "train.py").write_text("import json, sys\nprint(json.dumps([sys.prefix, *sys.argv[1:]]))")
    monkeypatch.setattr(sys, "argv", [str(scripts / "evaluate.py"), "smoke"])
    monkeypatch.setenv("PATH", path)
    root, assignments = tmp_path / 'it\'s "a" $HOME  root;#', ["seeds=[1, 2]", "task.tokenizer=~/x 'y'.json"]
    told = run(["/bin/sh", "-c", script_command("train", "smoke", root, assignments, force=True)], env=dict(os.environ))
    assert json.loads(told.stdout) == [sys.prefix, "smoke", "--root", str(root), "--set", *assignments, "--force"]
