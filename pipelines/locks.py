"""One pipeline at a time works on a step: an OS lock for each, which ends with the process that holds it, or a lease
where the root is in a store."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from datagen.storage import in_store
from pipelines.steps import State, Step, plan

LOCKS = "locks"  # the folder under a root for what holds only while a process lives


class Busy(RuntimeError):
    """Another pipeline works on a step that this one needs."""


@contextmanager
def working_on(steps: Sequence[Step], root: Path, preset: str) -> Iterator[None]:
    """Hold the locks of all steps that a run of `steps` would make, under <root>/locks.

    Pipelines that share no unfinished step run side by side on one root. Raises Busy, which names the other's process,
    host, preset and start, before anything is written but the locks. On a shared file system it needs one that locks
    between hosts, as NFS 4 does; in a store, one with conditional writes.
    """
    hold = _leased if in_store(root) else _locked
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "preset": preset, "since": _now()}
    with ExitStack() as held:
        for step, stands in plan(steps, root):
            if stands is not State.DONE:
                held.enter_context(hold(step, root, owner))
        yield


def lock_file(step: Step, root: Path) -> Path:
    """Where a step's lock lies, with its last owner in it; whether it is held only the OS knows."""
    return root / LOCKS / f"{step.name}-{step.identity}.json"


@contextmanager
def _locked(step: Step, root: Path, owner: dict[str, object]) -> Iterator[None]:
    path = lock_file(step, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # closed, also by death, it is free
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(_busy(step, root, file.read())) from None
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield


@contextmanager
def _leased(step: Step, root: Path, owner: dict[str, object]) -> Iterator[None]:
    from pipelines.leases import STALE_SECONDS, Held, leased  # it needs packages that only a store needs

    with ExitStack() as held:
        try:
            held.enter_context(leased(lock_file(step, root), owner))
        except Held as other:
            killed = f"; one that was killed elsewhere is forgotten after {STALE_SECONDS} s"
            raise Busy(_busy(step, root, json.dumps(other.owner)) + killed) from None
        yield


def _busy(step: Step, root: Path, text: str) -> str:
    try:
        owner = json.loads(text)
        who = "process {pid} on {host} (preset {preset}, since {since})".format(**owner)
    except ValueError:  # it has the lock and has not yet written who it is
        who = "another process"
    return f"step {step.name}: {who} works on it in {root}: wait until it ends, or give another --root"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
