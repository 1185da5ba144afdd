"""Snapshots of the MLflow database of a cluster's head in the cluster's root, as the head's disk ends with `ray down`.

    python cluster/snapshots.py restore    # before MLflow's server starts: fetch the database if this head has none
    python cluster/snapshots.py keep       # beside it: a snapshot a minute, if anything was logged, and one at SIGTERM

$MLFLOW_BACKEND_STORE_URI names the database, $SLEEPMODEL_ROOT the root. A database that is not SQLite is on a server of
its own, so nothing is done for it.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from datagen.files import replacing, sha256
from datagen.storage import as_path, check_reachable, local_copy, storage_errors

LISTED = 10_000  # checksums of snapshots; about a week of them


def restore(database: Path, snapshot: Path) -> None:
    """Fetch the snapshot if there is no database. Raises ValueError if there is one that the snapshot is not of."""
    check_reachable(snapshot)
    if not snapshot.exists():
        return
    if database.exists():
        if sha256(snapshot) not in _taken(database):
            raise ValueError(
                f"{snapshot} is not a snapshot of {database} but of another head's database: move {database} away "
                "to continue with the snapshot, or the snapshot to replace it"
            )
        return
    with local_copy(snapshot) as copy, replacing(database) as fresh:
        shutil.copyfile(copy, fresh)
        _remember(database, fresh)


def keep(database: Path, snapshot: Path, seconds: float) -> None:
    """Take snapshots until SIGTERM. Only one process does so for a database; others return at once."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    with open(f"{database}.lock", "w") as lock, closing(sqlite3.connect(database)) as connection:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        kept, ended = None, None
        while ended is None:
            ended = signal.sigtimedwait({signal.SIGTERM}, seconds)
            try:
                # another one after each change by others
                version = connection.execute("PRAGMA data_version").fetchone()
                if version != kept:
                    take(database, snapshot)
                    kept = version
            except (*storage_errors(), sqlite3.Error) as error:  # the next one may succeed
                print(f"no snapshot of {database}: {error}", file=sys.stderr, flush=True)


def take(database: Path, snapshot: Path) -> None:
    """Replace the snapshot by the database as it is, which may be in use."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / "copy"
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        _remember(database, copy)
        with replacing(snapshot) as fresh:
            shutil.copyfile(copy, fresh)


def _taken(database: Path) -> list[str]:
    """The checksums of the latest snapshots of a database, the one that it was restored from included."""
    listed = Path(f"{database}.snapshots")
    return listed.read_text().split() if listed.exists() else []


def _remember(database: Path, copy: Path) -> None:
    """List a snapshot before it is sent. Earlier ones stay, as sending may fail for days."""
    with replacing(Path(f"{database}.snapshots")) as fresh:
        fresh.write_text("\n".join([*_taken(database)[-LISTED:], sha256(copy)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["restore", "keep"])
    parser.add_argument("--seconds", type=float, default=60, help="between two looks for changes (default: 60)")
    arguments = parser.parse_args()
    url = make_url(os.environ["MLFLOW_BACKEND_STORE_URI"])
    if url.get_backend_name() != "sqlite":
        return
    database, snapshot = Path(str(url.database)), as_path(os.environ["SLEEPMODEL_ROOT"]) / "mlflow-snapshot.db"
    if arguments.action == "keep":
        keep(database, snapshot, arguments.seconds)
        return
    try:
        restore(database, snapshot)
    except (*storage_errors(), ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
