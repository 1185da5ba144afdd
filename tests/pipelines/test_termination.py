"""A signal gives trainings their time to save and closes what is open, whole; a second Ctrl-C ends at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import Background, run

PIPELINE = """
import sys, threading, time
from pathlib import Path
from pipelines.engine import signals
from pipelines.engine.signals import Terminated, stop_on_signals

signals.GRACE_SECONDS = 10**6  # of a busy machine
stop, may_save, saved, may_close = map(Path, sys.argv[1:5])

def train():
    while not (stop.exists() and may_save.exists()):
        time.sleep(0.01)
    saved.touch()

def say(line):
    print(line, flush=True)

def close(status):
    say(f"closes {status}")
    while not may_close.exists():
        time.sleep(0.01)
    say("closed")

try:
    with stop_on_signals(stop, say, close):
        threading.Thread(target=train, name="train-n1", daemon=True).start()
        say("trains")
        if sys.argv[5] == "waits":
            sys.stdin.read()
except Terminated as terminated:
    sys.exit(terminated.status)
"""
SAVES = "waiting up to 1000000 s for 1 training to save; run the same command again to continue\n"


class Pipeline(Background):
    def __init__(self, directory: Path, does: str = "waits", *wrapper: str) -> None:
        self.stop, self.may_save, self.saved, self.may_close = (
            directory / name for name in ("stop", "may-save", "saved", "may-close")
        )
        files = map(str, (self.stop, self.may_save, self.saved, self.may_close))
        super().__init__([*wrapper, sys.executable, "-c", PIPELINE, *files, does], stdin=subprocess.PIPE)


@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [
        ([signal.SIGINT], 130, "interrupted"),
        ([signal.SIGTERM], 143, "terminated"),
        ([signal.SIGHUP], 129, "terminal closed"),
        ([signal.SIGTERM] * 3, 143, "terminated"),
        ([signal.SIGINT, signal.SIGTERM], 130, "interrupted"),
    ],
)
def test_a_training_saves_before_the_pipeline_ends(
    sent: list[signal.Signals], status: int, word: str, tmp_path: Path
) -> None:
    with Pipeline(tmp_path) as process:
        process.until_it_prints("trains\n")
        for number in sent:
            process.send_signal(number)
            process.until(process.stop.exists, "the request to stop")
        assert process.poll() is None and not process.saved.exists()
        process.may_save.touch()
        process.may_close.touch()
        assert process.until_it_ends() == status
        assert process.output() == f"trains\n{word}: {SAVES}closes KILLED\nclosed\n"
    assert process.saved.exists() and not process.stop.exists()


def test_a_request_that_a_killed_pipeline_left_stops_nothing(tmp_path: Path) -> None:
    """In a container that is started again, the pipeline has the host name and the process id of the killed one."""
    (tmp_path / "stop").touch()
    (tmp_path / "may-save").touch()
    with Pipeline(tmp_path) as process:
        process.until_it_prints("trains\n")
        assert not process.stop.exists() and not process.saved.exists()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_another_ctrl_c_ends_it_at_once(first: signal.Signals, tmp_path: Path) -> None:
    with Pipeline(tmp_path) as process:
        process.until_it_prints("trains\n")
        process.send_signal(first)
        process.until(process.stop.exists, "the request to stop")
        process.send_signal(signal.SIGINT)
        assert process.until_it_ends() == 130
        assert "Traceback" not in process.output() and not process.saved.exists()


def test_what_is_being_closed_is_closed_whole(tmp_path: Path) -> None:
    """A first signal that comes after the work, while MLflow's runs are ended."""
    with Pipeline(tmp_path, "ends") as process:
        process.until_it_prints("closes FINISHED\n")
        process.terminate()
        process.may_close.touch()
        assert process.until_it_ends() == 143
        assert process.output() == "trains\ncloses FINISHED\nclosed\n"


def test_nohup_is_respected(tmp_path: Path) -> None:
    with Pipeline(tmp_path, "waits", "nohup") as process:
        process.until_it_prints("trains\n")
        process.send_signal(signal.SIGHUP)
        process.may_save.touch()
        process.may_close.touch()
        process.send_signal(signal.SIGTERM)
        assert process.until_it_ends() == 143 and "terminal closed" not in process.output()


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGINT, (130, "interrupted")), (signal.SIGTERM, (143, "terminated")), (signal.SIGHUP, (129, "terminal"))],
)
def test_a_script_that_still_imports_ends_with_a_line(
    number: signal.Signals, told: tuple[int, str], tmp_path: Path
) -> None:
    """The import of a package that swallows what is raised in it."""
    swallows = "try:\n    import time\n    time.sleep(10**6)\nexcept BaseException:\n    pass\n"
    (tmp_path / "rich.py").write_text(f"print('imports', flush=True)\n{swallows}")
    script, here = Path(__file__).parents[2] / "pipelines" / "full.py", Path(__file__).parents[2]
    environment = {"PYTHONPATH": f"{tmp_path}:{here}", "PATH": "/usr/bin:/bin"}
    with Background([sys.executable, str(script), "smoke", "--dry-run"], env=environment) as process:
        process.until_it_prints("imports\n")
        process.send_signal(number)
        status, word = told
        assert process.until_it_ends() == status
        (line,) = process.output().splitlines()[1:]
        assert line.startswith(word) and line.endswith(": run the same command again to continue")


def test_ray_cannot_change_how_sigterm_ends_it() -> None:
    program = (
        "import signal, sys\n"
        "from pipelines.engine.signals import end_on_signals, keep_sigterm\n"
        "end_on_signals()\n"
        "with keep_sigterm():\n"
        "    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))\n"
        "    {}\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    for meanwhile in ("pass", "signal.raise_signal(signal.SIGTERM)"):
        done = run([sys.executable, "-c", program.format(meanwhile)])
        assert (done.returncode, done.stderr) == (143, "terminated: run the same command again to continue\n")
