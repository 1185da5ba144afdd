"""The scripts of examples/ run as a reader starts them, and docs/extending.md shows these files as they are."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.waiting import run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PRINTED = {
    "forward_and_loss.py": r"loss (?P<before>\d\.\d+), logits \[64, 3\].*\n.*loss (?P<after>\d\.\d+)",
    "ask_a_document.py": r"[\d,]+ tokens read, \d+ sleeps\nWhen .*\?\n['\"].+",
    "session_and_memory.py": r"answer \[\[\d+, \d+, \d+, \d+\]\], the same as from the session that read the context",
    "own_mixer_and_task.py": r"step 30/30  loss \d\.\d+  accuracy 0\.\d+",
    "task_with_traces.py": r"traces (?P<before>\d\.\d+) .*\n.*\nstep 30/30  loss \d\.\d+  traces (?P<after>\d\.\d+)",
}


@pytest.mark.parametrize("script", PRINTED)
def test_it_runs(script: str, tmp_path: Path) -> None:
    """From another directory, so that it needs nothing but the installed packages and the files beside it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = run([sys.executable, str(EXAMPLES / script)], cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    found = re.search(PRINTED[script], result.stdout)
    assert found, result.stdout
    assert "after" not in found.groupdict() or float(found["after"]) < float(found["before"])
    assert not list(tmp_path.iterdir())


def test_every_script_is_run_above() -> None:
    beside = {"my_rules.py", "my_tasks.py", "my_experiment.py"}
    assert {path.name for path in EXAMPLES.glob("*.py")} == {*PRINTED, *beside}


def test_the_page_shows_the_files() -> None:
    shown = re.findall(r"```python\n(.+?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    names = ("my_rules.py", "my_experiment.py", "my_tasks.py", "task_with_traces.py", "own_mixer_and_task.py")
    assert shown == [(EXAMPLES / name).read_text() for name in names]
