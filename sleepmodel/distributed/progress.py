"""Progress on its way from trainings, on whichever node they run, to the driver that shows it.

A mailbox, which is a Ray actor on the driver's node, holds what was sent until the driver asks. A sender waits for
nobody, and a mailbox that is gone costs a training nothing but its watcher.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sleepmodel.training.progress import Progress, ProgressEvent

KEPT = 10_000  # events, the latest, of a driver that does not ask
POLL_SECONDS = 0.25
ANSWER_SECONDS = 5.0  # that the driver waits for its own mailbox

Deliver = Callable[[str, ProgressEvent], None]


@ray.remote(num_cpus=0, max_restarts=-1)
class _Mailbox:
    """Text that waits for the driver. Ray ships a decorated class by value, and this one uses nothing of ours: its
    process never imports torch."""

    def __init__(self, kept: int) -> None:
        self.waiting: deque[str] = deque(maxlen=kept)

    def put(self, text: str) -> None:
        self.waiting.append(text)

    def take(self) -> list[str]:
        taken = list(self.waiting)
        self.waiting.clear()
        return taken


def _name() -> str:
    """Of the mailbox of this driver; its tasks and actors, and no other driver's, find it by that."""
    return f"progress-{ray.get_runtime_context().get_job_id()}"


@dataclass(frozen=True)
class SendProgress:
    """A watcher that sends what it is told to the driver. It holds a name alone, and so may lie in a file of Ray Tune's
    that a later driver reads. source: of what, e.g. a stage's name; the driver gets it beside each event."""

    source: str

    def __call__(self, event: ProgressEvent) -> None:
        try:
            mailbox = ray.get_actor(_name())
        except ValueError:  # nobody watches, or not any longer
            return
        mailbox.put.remote(json.dumps([self.source, asdict(event)]))


class ProgressMailbox:
    """The driver's end: what is sent while it is open is delivered by a thread, in the order in which it came."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._lock, self._closed = threading.Lock(), threading.Event()
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": _name(), "get_if_exists": True, "scheduling_strategy": here}
        mailbox: Any = _Mailbox  # Ray gives the class methods that mypy does not know
        self.actor = mailbox.options(**options).remote(KEPT)
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
        """Deliver, in this thread, all that has come by now."""
        with self._lock:
            try:
                texts: list[str] = ray.get(self.actor.take.remote(), timeout=ANSWER_SECONDS)
            except RayError:  # it is being started again, or Ray itself goes down, which is for others to report
                return
            for text in texts:
                source, event = json.loads(text)
                report = event.pop("report")
                self._deliver(source, ProgressEvent(**event, report=Progress(**report) if report else None))

    def _poll(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            self.flush()
