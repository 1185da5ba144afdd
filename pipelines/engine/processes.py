"""Which process holds or made something, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def this_process() -> dict[str, Any]:
    """The host and pid of this process. pids: the namespace of its pid, as containers may share a host name without
    sharing pids; boot: of the machine, as copies of one may share all of these."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "pids": _pids(), "boot": _boot()}


def has_ended(process: Mapping[str, Any]) -> bool:
    """Whether a process of this host has ended; False where that cannot be known from here."""
    if process["host"] != socket.gethostname() or process.get("pids") != _pids():
        return False
    try:
        os.kill(process["pid"], 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)  # otherwise the process lives, as another user's
    return False


def has_ended_here(process: Mapping[str, Any]) -> bool:
    """Whether a process that began since this machine was booted has ended. Where a mistake would lose work: a copy of
    this machine may have its host name."""
    return process.get("boot") == _boot() and has_ended(process)


def _boot() -> str:
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else ""


def _pids() -> str:
    return os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
