"""Who waits is told at once of a death, at the limit of a hang, and in both cases what was printed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import waiting
from tests.waiting import Background, run, wait_for

DIES = "print('listening soon'); raise OSError('port 5000 is taken')"
HANGS = "import sys; print('loading', flush=True); sys.stdin.read()"


def test_a_death_is_noticed_before_the_limit() -> None:
    with Background([sys.executable, "-c", DIES]) as process:
        said = r"(?s)for 'ready' in its output, .* ended with status 1 .*listening soon.*port 5000 is taken"
        with pytest.raises(AssertionError, match=said):
            process.until_it_prints("ready")


def test_what_a_process_did_last_counts() -> None:
    with Background([sys.executable, "-c", "print('ready')"]) as process:
        assert process.until_it_ends() == 0
        process.until_it_prints("ready")


def test_what_hangs_ends_at_the_limit_with_what_it_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Background([sys.executable, "-c", HANGS], stdin=subprocess.PIPE) as process:
        process.until_it_prints("loading")
        with pytest.raises(AssertionError, match=r"(?s)for the impossible, .* runs and has printed:\nloading"):
            wait_for(lambda: False, "the impossible", process, limit=0)
    assert process.returncode == -9
    monkeypatch.setattr(waiting, "slowness", lambda: 1.0)
    with pytest.raises(AssertionError, match=r"(?s)did not end within 1 s and has printed:"):
        run([sys.executable, "-c", "import threading; threading.Event().wait()"], limit=1)
