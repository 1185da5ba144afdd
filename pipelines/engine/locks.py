"""Locks that keep two pipelines from running the same stage: an OS lock, which ends with its process, or a lease in an
object store."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from datagen.storage import in_store
from pipelines.engine.stage import Stage, State, execution_plan

WAIT_SECONDS = 1  # between two looks whether a lock is free
LOCKS = "locks"  # the folder under a root for files that matter only while a process lives


class StageLocked(RuntimeError):
    """Another process does the work that this one was about to do."""


@contextmanager
def hold_locks(stages: Sequence[Stage], root: Path, preset: str) -> Iterator[None]:
    """Hold the locks of all stages that a run of `stages` would run.

    Pipelines that share no unfinished stage run side by side on one root. Raises StageLocked as `hold_lock` does,
    before anything but the locks is written.
    """
    with ExitStack() as held:
        for stage, status in execution_plan(stages, root):
            if status is not State.DONE:
                path, what = lock_file(stage, root), f"stage {stage.name}"
                held.enter_context(hold_lock(path, root, what, "preset", preset))
        yield


@contextmanager
def hold_repair(stage: Stage, root: Path, preset: str, waits: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock for a repair of a finished stage's files, once no other pipeline does. It is not the stage's own
    lock, which the pipeline that ran the stage holds to its end. waits: called once if another pipeline repairs."""
    path, what = root / LOCKS / f"repair-{stage.name}-{stage.identity}.json", f"repair of {stage.name}"
    with ExitStack() as held:
        told = False
        while True:
            try:
                held.enter_context(hold_lock(path, root, what, "preset", preset))
                break
            except StageLocked as other:
                if not told:
                    waits(f"waiting: {other}")
                told = True
                time.sleep(WAIT_SECONDS)
        yield


def lock_file(stage: Stage, root: Path) -> Path:
    """The file of a stage's lock. It names the last owner, which may have released it: only the OS knows."""
    return root / LOCKS / f"{stage.name}-{stage.identity}.json"


@contextmanager
def hold_lock(path: Path, root: Path, what: str, kind: Literal["preset", "import"], name: str) -> Iterator[None]:
    """Hold the lock at `path`, under <root>/locks. what: the work that one process at a time may do; kind, name: of the
    run that does it here.

    Raises StageLocked, which names the other process, its host, run and start. A shared file system must support locks
    between hosts, as NFS 4 does; an object store must support conditional writes.
    """
    owner = {"pid": os.getpid(), "host": socket.gethostname(), kind: name, "since": _now()}
    with ExitStack() as held:
        try:
            held.enter_context(_leased(path, owner) if in_store(root) else _locked(path, owner))
        except _Held as other:
            raise StageLocked(
                f"{what}: {_owner(other.text)} is running it in {root}: wait until it ends, or use another --root"
                + other.expiry
            ) from None
        yield


class _Held(Exception):
    """Another process holds the lock. text: what it has written about itself; expiry: when a killed one loses it."""

    def __init__(self, text: str, expiry: str = "") -> None:
        self.text, self.expiry = text, expiry


@contextmanager
def _locked(path: Path, owner: dict[str, object]) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:  # the OS releases the lock when the file is closed, or the process dies
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _Held(file.read()) from None
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield


@contextmanager
def _leased(path: Path, owner: dict[str, object]) -> Iterator[None]:
    from pipelines.engine.leases import STALE_SECONDS, LeaseHeld, hold_lease

    with ExitStack() as held:
        try:
            held.enter_context(hold_lease(path, owner))
        except LeaseHeld as other:
            where = "on another host, or before a reboot"
            killed = f"; the lock of a process that was killed {where}, expires after {STALE_SECONDS} s"
            raise _Held(json.dumps(other.owner), killed) from None
        yield


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        kind = "import" if "import" in owner else "preset"
        return f"process {owner['pid']} on {owner['host']} ({kind} {owner[kind]}, since {owner['since']})"
    except ValueError:  # it holds the lock and has not written its name yet
        return "another process"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
