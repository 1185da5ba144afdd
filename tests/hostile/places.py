"""The addresses of roots and of MLflow stores, as surfaces."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import patch

from sqlalchemy.engine import make_url

from pipelines.arguments import absolute_root
from sleepmodel.tracking.locations import ARTIFACTS, artifact_path, sqlite_file, sqlite_uri
from sleepmodel.tracking.redact import redacted
from sleepmodel.tracking.runs import tracking_uri
from tests.hostile.surface import Surface


def _read_root(content: bytes, place: Path) -> None:
    """Its database and its artifacts lie under it, as MLflow and we read their addresses."""
    given = content[:1000].decode(errors="surrogateescape")
    if given.startswith("s3:"):
        return  # only a store could say whether it is right
    root = absolute_root(given or "runs")
    with patch.dict(os.environ):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        tracking_uri(root)  # refuses a name that is not UTF-8
    database = root / "mlflow.db"
    assert root.is_absolute()
    assert sqlite_file(sqlite_uri(database)) == database == Path(make_url(sqlite_uri(database)).database or "")
    assert artifact_path((root / ARTIFACTS).as_uri()) == root / ARTIFACTS


def _roots(place: Path) -> tuple[bytes, ...]:
    names = ("runs", "~/runs", "/srv/a b/x?y=1#z", "/srv/job%2Fbranch/é'\"[*]", "../x", "C:\\runs", "s3://bucket/x")
    return tuple(name.encode() for name in names)


def _read_tracking_uri(content: bytes, place: Path) -> None:
    """Of a SQLite database we and SQLAlchemy find the same file, wherever the process works; secrets are not shown."""
    given = content.decode(errors="surrogateescape")
    if "\0" in given:
        return  # no environment can hold it
    with patch.dict(os.environ, {"MLFLOW_TRACKING_URI": given}):
        uri = tracking_uri(place)
    file = sqlite_file(uri)
    if file is not None:
        assert file.is_absolute() and Path(make_url(uri).database or "") == file
    elif given:
        assert uri == given
    assert "secret" not in redacted("postgresql://user:secret@host/db") and redacted(redacted(uri)) == redacted(uri)


def _tracking_uris(place: Path) -> tuple[bytes, ...]:
    addresses = (
        "sqlite:///mlflow.db?timeout=60",
        f"sqlite:///{place}/mlflow.db",
        "sqlite+pysqlite:////srv/x%3Fy/mlflow.db",
        "sqlite:///~/mlflow.db",
        "postgresql+psycopg2://user:password@host:5432/mlflow?sslmode=require",
        "http://127.0.0.1:5000",
        "file:///srv/mlruns",
    )
    return tuple(address.encode() for address in addresses)


PLACES = {
    "roots": Surface(_roots, _read_root, (ValueError, OSError), "must (be|not)|UTF-8|null byte|too long|home|Ray"),
    "tracking addresses": Surface(_tracking_uris, _read_tracking_uri, (ValueError,), "give a file|home"),
}
