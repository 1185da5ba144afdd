"""A dry run leaves no trace, in the user's home either."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sleepmodel.ops.machine import cache_directory


@contextmanager
def leaving_no_trace() -> Iterator[None]:
    """Keep libraries from writing to the user's home and working directory: the caches of matplotlib, torch and our
    kernel go to a temporary directory, MLflow's telemetry is off, and imported modules are not compiled to files.

    Our cache begins as a copy of the user's, so that a dry run chooses by the measurements by which a run would."""
    with tempfile.TemporaryDirectory() as directory:
        users = cache_directory()
        caches = dict.fromkeys(("XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"), directory)
        changed = {**caches, "MLFLOW_DISABLE_TELEMETRY": "true"}
        before = {name: os.environ.get(name) for name in changed}, sys.dont_write_bytecode
        os.environ.update(changed)
        cache_directory().mkdir()
        for file in users.glob("*"):
            with suppress(FileNotFoundError):  # of a process that writes one and renames it
                shutil.copy(file, cache_directory())
        sys.dont_write_bytecode = True
        try:
            yield
        finally:
            environment, sys.dont_write_bytecode = before
            for name, value in environment.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value
