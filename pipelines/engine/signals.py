"""The signals that end a pipeline: SIGINT of Ctrl-C, SIGTERM of a scheduler, SIGHUP of a terminal that is closed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 25  # Kubernetes kills after 30
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "terminal closed"}
SHOW_CURSOR = b"\x1b[?25h"  # which a live table hides
AGAIN = "run the same command again to continue"


class Terminated(BaseException):
    """This process got a signal that ends it. Not an Exception, like KeyboardInterrupt, so that no error handler
    catches it. status: the exit status that shells use for the signal."""

    def __init__(self, number: int) -> None:
        self.status = 128 + number
        super().__init__(WORDS[signal.Signals(number)])


def end_on_signals() -> None:
    """From now on, each signal prints a line and ends this process at once.

    It raises nothing: an exception in the middle of an import may be swallowed there or printed with its traceback.
    """
    for number in _heeded():
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # nobody reads stderr any more
        os.write(2, f"{WORDS[signal.Signals(number)]}: {AGAIN}\n".encode())
    os._exit(128 + number)


def _heeded() -> list[signal.Signals]:
    """All but those that the caller wants ignored, as `nohup` does SIGHUP."""
    return [number for number in WORDS if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def keep_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM while a library is started that sets its own, one that exits, as Ray does."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def stop_on_signals(stop: Path, say: Callable[[str], None], close: Callable[[str], None]) -> Iterator[None]:
    """Raise Terminated at the first signal. Then create the file `stop`, which asks trainings to save and end, and a
    search to end its trials. Wait for them for up to GRACE_SECONDS. Other stages end as after SIGKILL: their next run
    continues from the last shard. A second Ctrl-C ends the process at once.

    say: prints a line for the user; close: called at the end, with FINISHED, FAILED or KILLED.
    Call it in the main thread. It replaces Ray's own handler, which ends the workers at once or waits half a minute.
    """
    received: list[int] = []
    inside = True

    def handle(number: int, frame: FrameType | None) -> None:
        if not received:
            received.append(number)
            if inside:
                raise Terminated(number)
        elif number == signal.SIGINT:  # a second SIGTERM must not end the wait for the trainings to save
            if os.isatty(1):
                os.write(1, SHOW_CURSOR)
            os._exit(128 + number)

    before = {number: signal.signal(number, handle) for number in _heeded()}
    stop.unlink(missing_ok=True)  # of a killed process with the same id, as in a container
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except Terminated as terminated:
        status = "KILLED"
        # threads have the names of their stages
        saving = [thread for thread in threading.enumerate() if thread.name.startswith("train-")]
        searching = [thread for thread in threading.enumerate() if thread.name == "tune"]
        say(f"{terminated}: {_waiting_for(len(saving), len(searching))}{AGAIN}")
        stop.touch()
        deadline = time.monotonic() + GRACE_SECONDS
        for thread in saving + searching:
            thread.join(max(0.0, deadline - time.monotonic()))
        raise
    finally:
        inside = False  # what is closed is closed whole
        close(status)
        stop.unlink(missing_ok=True)
        if not received:
            for number, handler in before.items():
                signal.signal(number, handler)
    if received:
        raise Terminated(received[0])


def _waiting_for(trainings: int, searches: int) -> str:
    if trainings:
        return f"waiting up to {GRACE_SECONDS} s for {trainings} training{'s' * (trainings > 1)} to save; "
    return f"waiting up to {GRACE_SECONDS} s for the search to end its trials; " if searches else ""
