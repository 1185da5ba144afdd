"""SIGTERM gives trainings their time to save, however often it comes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PIPELINE = """
import sys, threading, time
from pathlib import Path
from pipelines.engine.signals import Terminated, stop_on_sigterm

stop, saved = map(Path, sys.argv[1:])

def train():
    while not stop.exists():
        time.sleep(0.01)
    time.sleep(1)
    saved.touch()

try:
    with stop_on_sigterm(stop):
        threading.Thread(target=train, name="train-n1", daemon=True).start()
        print("trains", flush=True)
        time.sleep(60)
except Terminated:
    print("terminated", flush=True)
"""


@pytest.mark.parametrize("signals", [1, 3])
def test_a_training_saves_before_the_pipeline_ends(signals: int, tmp_path: Path) -> None:
    stop, saved = tmp_path / "stop", tmp_path / "saved"
    command = [sys.executable, "-c", PIPELINE, str(stop), str(saved)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "trains\n"
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        said, _ = process.communicate(timeout=30)
    assert saved.exists() and said == "terminated\n" and not stop.exists()
