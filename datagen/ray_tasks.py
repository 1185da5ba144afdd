"""Many Ray tasks of one function, a bounded number at a time, with a progress bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as Bar
from rich.text import Text

T = TypeVar("T")

IN_FLIGHT_PER_CPU = 2  # one task runs, one waits
LOOK_SECONDS = 10  # between two looks at the cluster while tasks run
WAIT_MINUTES = 30  # for a node on which a task can run

log = logging.getLogger(__name__)


def run_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    collected: Callable[[T], None],
    wait_minutes: float = WAIT_MINUTES,
) -> list[T]:
    """The results of `function(*call)` for each call, in their order, each of one Ray task with one core. This process
    is connected to Ray. collected: called with each result as it comes.

    Raises TimeoutError if no node of the cluster has had a core for `wait_minutes`: Ray would wait for ever.
    """
    remote = ray.remote(function)
    results: dict[int, T] = {}
    running: dict[ray.ObjectRef[T], int] = {}
    room = WaitForRoom(wait_minutes)

    def collect() -> None:
        while not (ready := ray.wait(list(running), timeout=LOOK_SECONDS)[0]):
            room.look(_lacking())
        (ref,) = ready
        room.look("")
        with raising_io_errors():
            result = results[running.pop(ref)] = ray.get(ref)
        collected(result)

    for number, call in enumerate(calls):
        while len(running) >= _in_flight():
            collect()
        running[remote.remote(*call)] = number
    while running:
        collect()
    return [results[number] for number in sorted(results)]


class WaitForRoom:
    """A wait for a cluster that has become too small for a task, which says so and ends after `minutes`."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self._since: float | None = None  # when it was first seen to be too small

    def look(self, lacking: str) -> None:
        """Note what the cluster lacks now, in words; "": nothing. Logs a warning when it begins to lack something, and
        raises TimeoutError when it has for too long."""
        if not lacking:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
            log.warning("%s; waiting for a node, for %g minutes at most", lacking, self.minutes)
        elif time.monotonic() - self._since > 60 * self.minutes:
            hint = "scale.wait_minutes of a pipeline sets how long it waits"
            raise TimeoutError(f"{lacking}; no node came in {self.minutes:g} minutes ({hint})")


def _lacking() -> str:
    """Why no node of the cluster can run a task with one core; "" if one can."""
    cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    if any(count >= 1 for count in cores):
        return ""
    nodes = f"{len(cores)} node{'s' * (len(cores) != 1)}"
    return f"a task takes 1 CPU, but Ray has {sum(cores):g} CPU on {nodes}: add a node, or start Ray with more"


@contextmanager
def raising_io_errors() -> Iterator[None]:
    """Raise the OSError of a task, as of a full disk, without the traceback that Ray writes before its message."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, OSError):
            raise error.cause from error
        raise


def shared(value: Any) -> Any:
    """What stands for a value in the calls of many tasks, so that it is sent once."""
    return ray.put(value)


def _in_flight() -> int:
    """The most tasks to submit at once. Recomputed each time, as waiting tasks make an autoscaler add nodes."""
    return max(1, int(IN_FLIGHT_PER_CPU * ray.cluster_resources().get("CPU", 1)))


class PerSecond(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Bar) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} {self.unit}/s")


@contextmanager
def progress_bar(title: str, total: int, unit: str = "rows", *, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A progress bar, if standard error is a terminal. Yields a function that advances it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        PerSecond(unit),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        bar = progress.add_task(title, total=total)
        yield lambda more: progress.advance(bar, more)
