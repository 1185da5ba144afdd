"""Where an MLflow store has its files: the address of a SQLite database, and the artifacts of a root that has moved.

MLflow stores the absolute location of each run's and model's artifacts. Under a root they are in ARTIFACTS, so that
they can be found after the root was moved or copied.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import String, column, create_engine, func, inspect, literal, select, table, update
from sqlalchemy.exc import ArgumentError
from sqlalchemy.sql.dml import Update

from datagen.shell import python_command
from datagen.storage import local_path
from sleepmodel.tracking.redact import redacted

ARTIFACTS = "mlartifacts"
DIALECTS = ("sqlite", "postgresql", "mysql", "mssql")  # the databases that MLflow can use
_SQLITE = re.compile(r"sqlite(?:\+\w+)?://(?:/(?!file:)([^?]*))?(\?.*)?", re.DOTALL)
_COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def sqlite_uri(file: Path) -> str:
    """The address of a SQLite database, as SQLAlchemy and MLflow read it: percent escapes are decoded, and ? begins the
    options."""
    path = str(file.absolute())
    escaped = path.replace("%", "%25").replace("?", "%3F")
    # for sqlite:/// without a driver, MLflow would make the directories of the escaped path
    return f"sqlite:///{path}" if escaped == path else f"sqlite+pysqlite:///{escaped}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite database's address; None for all other addresses. Raises ValueError for a database in
    memory."""
    parts = _SQLITE.fullmatch(uri)
    if parts is None:
        return None
    path = unquote(parts[1] or "")
    if path in ("", ":memory:"):
        raise ValueError(
            f"{uri}: a database in memory is lost with its process; give a file, as in sqlite:///mlflow.db"
        )
    return Path(path)


def absolute_uri(uri: str) -> str:
    """A store's address that does not depend on the working directory; ~ stands for the home. Raises ValueError if it
    is that of nobody."""
    file = sqlite_file(uri)
    if file is None or file.is_absolute():
        return uri
    return sqlite_uri(local_path(file)) + "".join(uri.partition("?")[1:])


def is_database(uri: str) -> bool:
    return re.split("[+:]", uri)[0] in DIALECTS


def artifact_path(location: str) -> Path | None:
    """The path of an artifact location; None where it is not on a disk."""
    parts = urlsplit(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" and not parts.netloc else None


def under_root(location: str, root: Path) -> str:
    """The location of the same artifacts under `root`, if they are there: it may have been moved or copied."""
    path = artifact_path(location)
    if path is None or ARTIFACTS not in path.parts:
        return location
    last = len(path.parts) - 1 - path.parts[::-1].index(ARTIFACTS)
    here = root.absolute().joinpath(*path.parts[last:])
    return here.as_uri() if here.exists() else location


def correct_locations(uri: str, root: Path, experiment: str) -> None:
    """If the root of an experiment was moved to `root`, or copied there with its database, make the database at `uri`
    name the present locations of all artifacts."""
    engine = create_engine(uri)
    with engine.begin() as connection:
        known = inspect(connection)
        if known.has_table("experiments"):
            location, name = column("artifact_location", String), column("name", String)
            chosen = select(location).select_from(table("experiments", location, name)).where(name == experiment)
            old = connection.execute(chosen).scalar()
            new = _moved_artifacts(old, root, uri) if old else None
            for each in set(_COLUMNS) & set(known.get_table_names()) if new else ():
                present = {described["name"] for described in known.get_columns(each)}
                for field in sorted(present & set(_COLUMNS[each])):
                    connection.execute(_replacing(each, field, str(old), str(new)))
    engine.dispose()


def _moved_artifacts(location: str, root: Path, uri: str) -> str | None:
    """The new artifact location of an experiment if its root was moved to `root`, or copied there with its database;
    None if `location` is right."""
    old, new, database = artifact_path(location), root.absolute() / ARTIFACTS, sqlite_file(uri)
    if old is None or old.name != ARTIFACTS or old == new:
        return None
    own, there = database is not None and database.parent == new.parent, new.exists()
    gone = not os.path.exists(old)  # Path.exists would fail in another user's home
    moved, copied = gone and (own or there), not gone and own and there and not old.samefile(new)
    return new.as_uri() if moved or copied else None


def _replacing(name: str, field: str, old: str, new: str) -> Update:
    """The statement that replaces `old` by `new` at the beginning of a table's locations."""
    location: Any = column(field, String)
    inside = func.substr(location, 1, len(old) + 1).in_([old, f"{old}/"])
    moved = literal(new) + func.substr(location, len(old) + 1)
    return update(table(name, location)).where(inside).values({location: moved})


def check_database(uri: str, seconds: int) -> None:
    """Raise SQLAlchemyError, or ImportError for a missing driver, if `uri` is a database that cannot be read: MLflow
    would try again for two minutes. seconds: how long to wait for a connection."""
    if not is_database(uri):
        return
    limits = {"connect_timeout": seconds} if uri.startswith(("postgresql", "mysql")) else {}
    try:
        engine = create_engine(uri, connect_args=limits)
    except ImportError as error:
        raise ImportError(f"{error}; install it, or name another driver, as in postgresql+psycopg2://") from error
    except ValueError as error:  # of a port that is no number
        raise ArgumentError(str(error)) from error
    inspect(engine).has_table("experiments")
    engine.dispose()


def store_command(uri: str, *words: str) -> str:
    """The command of this interpreter for the store at `uri`, as it is typed. An address with a secret is left out: who
    has one has set it."""
    command = python_command(*words)
    return command if redacted(uri) != uri else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} {command}"
