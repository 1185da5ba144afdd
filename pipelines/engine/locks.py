"""Locks that keep two pipelines from running the same stage: an OS lock, which ends with its process, or a lease in an
object store."""

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
from pipelines.engine.stage import Stage, State, execution_plan

LOCKS = "locks"  # the folder under a root for files that matter only while a process lives


class StageLocked(RuntimeError):
    """Another pipeline works on a stage that this one needs."""


@contextmanager
def hold_locks(stages: Sequence[Stage], root: Path, preset: str) -> Iterator[None]:
    """Hold the locks of all stages that a run of `stages` would run, under <root>/locks.

    Pipelines that share no unfinished stage run side by side on one root. Raises StageLocked, which names the other
    pipeline's process, host, preset and start, before anything but the locks is written. A shared file system must
    support locks between hosts, as NFS 4 does; an object store must support conditional writes.
    """
    hold = _leased if in_store(root) else _locked
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "preset": preset, "since": _now()}
    with ExitStack() as held:
        for stage, status in execution_plan(stages, root):
            if status is not State.DONE:
                held.enter_context(hold(stage, root, owner))
        yield


def lock_file(stage: Stage, root: Path) -> Path:
    """The file of a stage's lock. It names the last owner, which may have released it: only the OS knows."""
    return root / LOCKS / f"{stage.name}-{stage.identity}.json"


@contextmanager
def _locked(stage: Stage, root: Path, owner: dict[str, object]) -> Iterator[None]:
    path = lock_file(stage, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # the OS releases the lock when the file is closed, or the process dies
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StageLocked(_owner_message(stage, root, file.read())) from None
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield


@contextmanager
def _leased(stage: Stage, root: Path, owner: dict[str, object]) -> Iterator[None]:
    from pipelines.engine.leases import STALE_SECONDS, LeaseHeld, hold_lease

    with ExitStack() as held:
        try:
            held.enter_context(hold_lease(lock_file(stage, root), owner))
        except LeaseHeld as other:
            killed = f"; the lock of a pipeline that was killed on another host expires after {STALE_SECONDS} s"
            raise StageLocked(_owner_message(stage, root, json.dumps(other.owner)) + killed) from None
        yield


def _owner_message(stage: Stage, root: Path, text: str) -> str:
    try:
        owner = json.loads(text)
        who = "process {pid} on {host} (preset {preset}, since {since})".format(**owner)
    except ValueError:  # the other holds the lock and has not written its name yet
        who = "another process"
    return f"stage {stage.name}: {who} is running it in {root}: wait until it ends, or use another --root"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
