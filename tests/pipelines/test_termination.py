"""SIGTERM gives trainings their time to save, however often it comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import Background

PIPELINE = """
import sys, threading, time
from pathlib import Path
from pipelines.engine import signals
from pipelines.engine.signals import Terminated, stop_on_sigterm

signals.GRACE_SECONDS = 10**6  # of a busy machine
stop, may_save, saved = map(Path, sys.argv[1:])

def train():
    while not (stop.exists() and may_save.exists()):
        time.sleep(0.01)
    saved.touch()

try:
    with stop_on_sigterm(stop):
        threading.Thread(target=train, name="train-n1", daemon=True).start()
        print("trains", flush=True)
        sys.stdin.read()
except Terminated:
    print("terminated", flush=True)
"""


@pytest.mark.parametrize("signals", [1, 3])
def test_a_training_saves_before_the_pipeline_ends(signals: int, tmp_path: Path) -> None:
    stop, may_save, saved = (tmp_path / name for name in ("stop", "may-save", "saved"))
    command = [sys.executable, "-c", PIPELINE, str(stop), str(may_save), str(saved)]
    with Background(command, stdin=subprocess.PIPE) as process:
        process.until_it_prints("trains\n")
        process.terminate()
        process.until(stop.exists, "the request to stop")
        for _ in range(signals - 1):
            process.terminate()
        assert process.poll() is None and not saved.exists()
        may_save.touch()
        assert process.until_it_ends() == 0
        assert process.output() == "trains\nterminated\n"
    assert saved.exists() and not stop.exists()
