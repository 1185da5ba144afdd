"""Times calls on the host, and what a device does, without waiting for it; or waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch


def seconds_of(work: Callable[[], object]) -> float:
    """The seconds until a call returns; it may leave a GPU at work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given; without one there is nothing to wait for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Stopwatch:
    """The seconds that a device has taken for some of its work. CUDA itself notes when that begins and ends; elsewhere
    the host does."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._seconds = device, 0.0
        self._unread = list[tuple[torch.cuda.Event, torch.cuda.Event]]()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count what is done within."""
        if self._device.type != "cuda":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        stream = torch.cuda.current_stream(self._device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stream)
        yield
        end.record(stream)
        self._read(wait=False)
        self._unread.append((begin, end))

    @property
    def seconds(self) -> float:
        """All seconds so far. On CUDA the host waits until what was counted has ended."""
        self._read(wait=True)
        return self._seconds

    def _read(self, wait: bool) -> None:
        while self._unread and (wait or self._unread[0][1].query()):
            begin, end = self._unread.pop(0)
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1e3
