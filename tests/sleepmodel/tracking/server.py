"""A real MLflow server on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import Background, scaled


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def server(root: Path, port: int) -> Iterator[Callable[[signal.Signals], None]]:
    """A real MLflow server over the database under `root`; a function that sends a signal to all of it."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/mlflow.db",
        "--artifacts-destination",
        str(root / "artifacts"),
    ]

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=scaled(2)):
            return True
        return False

    with Background(command) as process:
        process.until(answers, f"an answer at port {port}")
        yield lambda signal: os.killpg(process.pid, signal)
