"""Ctrl-C at a terminal, which reaches the pipeline and the Ray that it started, in each of its phases."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import Background, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults"),
]

ROOT = Path(__file__).parents[2]
RAYS_OWN = re.compile(r"\(_Controller pid=")  # it logs tracebacks on a machine that is busy
SMALL = ("--set", "seeds=[20]", "task.steps=64", "train.steps=300", "train.validate_every=10", "search.trials=2")


class Pipeline(Background):
    """The smoke pipeline on a Ray of its own, or what of it is left to do."""

    def __init__(self, root: Path) -> None:
        command = [sys.executable, "pipelines/full.py", "smoke", "--root", str(root), *SMALL]
        super().__init__(command, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": "local", "COLUMNS": "200"})

    def left(self) -> str:
        """The processes of its session that live."""
        found = subprocess.run(["ps", "-s", str(self.pid), "-o", "stat=,args="], capture_output=True, text=True)
        return "".join(line for line in found.stdout.splitlines(True) if not line.startswith("Z"))


def test_ctrl_c_ends_each_phase_with_a_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    phases = (
        "everything goes to",
        "Ray has",
        "generate: started",
        "n1-seed20  step 20/",
        "tune: started",
        "tune-N1-eta1.00  step 20/",
        "winner-seed20  step 20/",
        "evaluate: started",
    )
    for phase in phases:
        with Pipeline(tmp_path) as pipeline:
            pipeline.until_it_prints(phase)
            os.killpg(pipeline.pid, signal.SIGINT)
            assert pipeline.until_it_ends() == 128 + signal.SIGINT, pipeline.told()
            printed = "\n".join(line for line in pipeline.output().splitlines() if not RAYS_OWN.search(line))
            assert printed.count("interrupted: ") == 1 and "run the same command again to continue" in printed
            assert "Traceback" not in printed and "Error" not in printed, (phase, printed)
            wait_for(lambda left=pipeline.left: not left(), f"the end of all its processes: {phase}")
        assert "RUNNING" not in statuses(tmp_path), phase
    with Pipeline(tmp_path) as pipeline:
        assert pipeline.until_it_ends() == 0, pipeline.told()
    assert statuses(tmp_path) == {"FINISHED"}


def statuses(root: Path) -> set[str]:
    """Of all runs in MLflow."""
    if not (root / "mlflow.db").exists():
        return set()
    with sqlite3.connect(root / "mlflow.db") as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return set()  # MLflow was making its tables
        return {status for (status,) in database.execute("SELECT status FROM runs")}
