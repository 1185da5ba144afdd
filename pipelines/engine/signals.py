"""SIGTERM, which a scheduler or a preempted machine sends some seconds before SIGKILL."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 25  # Kubernetes kills after 30


class Terminated(BaseException):
    """This process got SIGTERM. Not an Exception, like KeyboardInterrupt, so that no error handler catches it."""


@contextmanager
def stop_on_sigterm(stop: Path) -> Iterator[None]:
    """On SIGTERM, create the file `stop`, which asks trainings to save and end, give the running trainings up to
    GRACE_SECONDS, and raise Terminated. Other stages end as after SIGKILL: their next run continues from the last
    shard or trial.

    Call it in the main thread. It replaces Ray's own handler, which ends the workers at once or waits half a minute.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        # a second SIGTERM must not end the wait for the trainings to save
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.touch()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except Terminated:
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in threading.enumerate():
            if thread.name.startswith("train-"):  # a stage's thread has its name
                thread.join(max(0.0, deadline - time.monotonic()))
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        stop.unlink(missing_ok=True)
