"""A node that is lost for good, while no other has room for what ran there."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.waiting import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults"),
]


def test_who_waits_for_a_lost_node_is_told_after_a_stated_time(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = run(
        [sys.executable, "-m", "tests.faults.lost", str(tmp_path)], cwd=Path(__file__).parents[2], env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads((tmp_path / "result.json").read_text())
    (training, seconds), (task, waited), (search, _) = said["training"], said["task"], said["search"]
    print(f"a training ended {seconds:.0f} s after its start, a task after {waited:.0f} s")
    assert "n1: for scale.wait_minutes = 1 Ray had no room for 1 x 2 cores" in training
    assert "Ray has 1 CPU and 0 GPU, which hold 0 workers with 2 cores: must hold 1" in task
    assert "no node came in 1 minutes (scale.wait_minutes" in task
    assert search == task
