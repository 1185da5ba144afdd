"""Which process holds or made something, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any


def this_process() -> dict[str, Any]:
    """The host and pid of this process. pids: the namespace of its pid, as containers may share a host name without
    sharing pids."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "pids": _pids()}


def has_ended(process: Mapping[str, Any]) -> bool:
    """Whether a process of this host has ended; False where that cannot be known from here."""
    if process["host"] != socket.gethostname() or process.get("pids") != _pids():
        return False
    try:
        os.kill(process["pid"], 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)  # otherwise the process lives, as another user's
    return False


def _pids() -> str:
    return os.readlink("/proc/self/ns/pid") if os.path.exists("/proc/self/ns/pid") else ""
