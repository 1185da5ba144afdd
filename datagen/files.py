"""Files that are never seen half-written."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from uuid import uuid4

from datagen.storage import in_store, put


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, or on a local disk where that is in a store, and puts what was written
    there in the place of `path` in one step.

    An error removes the temporary file, and an OSError, as of a full disk, is raised again with the name of `path`; a
    killed process leaves the file behind for `remove_temporaries`.
    """
    with tempfile.TemporaryDirectory() if in_store(path) else nullcontext(path.parent) as directory:
        # The random part lets a task that Ray runs twice write twice at once.
        temporary = Path(directory) / f".{path.name}.{uuid4().hex}.tmp"
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            put(temporary, path)
        except OSError as error:
            raise OSError(
                f"{path} cannot be written ({error}); what stood there is as it was: make room, and run the same again"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


def remove_temporaries(directory: Path) -> None:
    for temporary in directory.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The checksum of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
