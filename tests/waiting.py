"""Waiting for what other processes do: for events, with limits that end what hangs and that load alone never reaches.

A limit is many times what an idle machine needs, and is multiplied by how slow this machine is.
"""

from __future__ import annotations

import functools
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

IDLE_START = 0.13  # seconds in which a Python that imports numpy starts and ends on an idle machine
PATIENCE = 300.0  # seconds on an idle machine, where all that is waited for takes less than 30


@functools.cache
def slowness() -> float:
    """How many times as long as on an idle machine a process takes here and now; measured once, at least 1."""

    def start() -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import numpy"], check=True)
        return time.perf_counter() - begin

    return max(1.0, statistics.median(start() for _ in range(3)) / IDLE_START)  # the first may read a cold disk


def scaled(seconds: float = PATIENCE) -> float:
    """What a limit of an idle machine is on this one."""
    return seconds * slowness()


def wait_for(
    condition: Callable[[], object], what: str, process: Background | None = None, limit: float = PATIENCE
) -> None:
    """Wait until a condition holds. what: the event, for the message; process: who makes it happen; limit: seconds on
    an idle machine.

    Raises AssertionError, with what the process has printed, as soon as it has ended, or at the limit.
    """
    begin = time.monotonic()
    while not condition():
        ended = process is not None and process.poll() is not None
        if ended and condition():  # the last that it did
            return
        waited = time.monotonic() - begin
        if ended or waited > scaled(limit):
            shown = f": {process.told()}" if process else ""
            raise AssertionError(f"waited {waited:.1f} s for {what}, which did not happen{shown}")
        time.sleep(0.02)


def in_thread(function: Callable[..., T], *arguments: object) -> Future[T]:
    """Call a function beside the test, in a thread, as a pipeline calls `fit` and `search`: in the main one, Ray would
    replace pytest's handlers of signals."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function(*arguments))
        except BaseException as error:  # which `result` raises
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()  # a test that fails does not wait for it
    return future


class Background(subprocess.Popen[bytes]):
    """A program beside the test, whose whole output is kept. The end of its context kills it and its process group."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe would have to be emptied
        super().__init__(command, stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True, **options)

    def output(self) -> str:
        """What it has printed so far, to stdout and stderr."""
        return os.pread(self._output.fileno(), os.fstat(self._output.fileno()).st_size, 0).decode(errors="replace")

    def told(self) -> str:
        """Its state and the end of its output, for a message."""
        state = "runs" if self.poll() is None else f"ended with status {self.returncode}"
        return f"{_shown(self.args)} {state} and has printed:\n{self.output()[-5000:]}"

    def until(self, condition: Callable[[], object], what: str) -> None:
        wait_for(condition, what, self)

    def until_it_prints(self, text: str) -> None:
        self.until(lambda: text in self.output(), f"{text!r} in its output")

    def until_it_ends(self) -> int:
        """Its exit status."""
        self.until(lambda: self.poll() is not None, "its end")
        return int(self.returncode)

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        super().__exit__(None, None, None)
        self._output.close()


def run(command: Sequence[str], limit: float = PATIENCE, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with its output as text. limit: seconds on an idle machine."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=scaled(limit), **options)
    except subprocess.TimeoutExpired as hangs:
        said = b"".join(part or b"" for part in (hangs.stdout, hangs.stderr)).decode(errors="replace")
        raise AssertionError(
            f"{_shown(command)} did not end within {hangs.timeout:.0f} s and has printed:\n{said[-5000:]}"
        ) from None


def _shown(command: Any) -> str:
    text = shlex.join(map(str, command))
    return text if len(text) < 200 else f"{text[:200]}..."
