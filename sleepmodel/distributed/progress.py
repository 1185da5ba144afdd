"""Sends progress events from trainings, on any node, to the driver that shows them.

A mailbox, a Ray actor on the driver's node, keeps the events until the driver polls it. A sender never waits, and a
training goes on without a mailbox.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sleepmodel.training.progress import Progress, ProgressEvent

KEPT = 10_000  # latest events that wait for the driver
POLL_SECONDS = 0.25
ANSWER_SECONDS = 5.0  # the driver's limit for an answer of the mailbox

Deliver = Callable[[str, ProgressEvent], None]


@ray.remote(num_cpus=0, max_restarts=-1)
class _Mailbox:
    """Texts that wait for the driver. Ray pickles this class by value, and it uses nothing of this package, so its
    process does not import torch."""

    def __init__(self, kept: int) -> None:
        self.waiting: deque[str] = deque(maxlen=kept)

    def append(self, text: str) -> None:
        self.waiting.append(text)

    def drain(self) -> list[str]:
        texts = list(self.waiting)
        self.waiting.clear()
        return texts


def _name() -> str:
    """The name of this driver's mailbox. Only the tasks and actors of this driver compute the same name."""
    return f"progress-{ray.get_runtime_context().get_job_id()}"


@dataclass(frozen=True)
class SendProgress:
    """A progress callback that sends each event to the driver. It holds only a name, so a later driver can load it from
    Ray Tune's files. source: e.g. a stage's name, which the driver gets with each event."""

    source: str

    def __call__(self, event: ProgressEvent) -> None:
        try:
            mailbox = ray.get_actor(_name())
        except ValueError:  # no driver listens, or not any more
            return
        mailbox.append.remote(json.dumps([self.source, asdict(event)]))


class ProgressMailbox:
    """The driver's end. While it is open, a thread delivers the events in the order of their arrival."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._lock, self._closed = threading.Lock(), threading.Event()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": _name(), "get_if_exists": True, "scheduling_strategy": here}
        mailbox: Any = _Mailbox  # Ray adds methods to the class that mypy does not know
        self.actor = mailbox.options(**options).remote(KEPT)
        self._drained: Any = None  # an answer that has not come yet
        self._thread = threading.Thread(target=self._poll, name="progress", daemon=True)

    def __enter__(self) -> ProgressMailbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()
        self.flush()
        ray.kill(self.actor)

    def flush(self) -> None:
        """Deliver all events that have arrived, in this thread."""
        with self._lock:
            self._drained = self._drained or self.actor.drain.remote()
            try:
                texts: list[str] = ray.get(self._drained, timeout=ANSWER_SECONDS)
            except GetTimeoutError:  # the answer has the events: the next call waits for it again
                return
            except RayError:  # the actor is restarting, or Ray is shutting down, which others report
                self._drained = None
                return
            self._drained = None
            for text in texts:
                source, event = json.loads(text)
                report = event.pop("report")
                self._deliver(source, ProgressEvent(**event, report=Progress(**report) if report else None))

    def _poll(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            self.flush()
