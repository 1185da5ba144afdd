"""Writes files atomically: a reader sees the old file or the new one, never a part. Locks, checksums and stamps of
files."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from uuid import uuid4

from datagen.storage import in_store, put, remove_tree

Stamp = tuple[int, int]  # of a file: the time of its last change, in nanoseconds, and its size in bytes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path and then replaces `path` by the file written there, in one step.

    The temporary file lies beside `path`, or on a local disk if `path` is in an object store. It is removed after an
    error; an OSError, as of a full disk, is raised again with the name of `path` and a remedy. A killed process leaves
    the temporary file, which `remove_temporaries` deletes.
    """
    with tempfile.TemporaryDirectory() if in_store(path) else nullcontext(path.parent) as directory:
        # The random name allows two processes, as of a task that Ray retries, to write at the same time.
        temporary = Path(directory) / f".{path.name}.{uuid4().hex}.tmp"
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            put(temporary, path)
        except OSError as error:
            raise write_error(path, error) from error
        finally:
            with suppress(OSError):  # of a directory that could not be made or read: the error above tells it
                temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, a file or a directory on a disk, once no other process holds it. The lock is a file
    beside it, `.<name>.lock`, and the OS releases it with its process. Raises OSError if the lock cannot be made."""
    import fcntl  # only POSIX has it, and this module loads models too

    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_texts(directory: Path, texts: Mapping[str, str], names: Iterable[str]) -> None:
    """Write a file in UTF-8 for each text, in this order and each atomically, and then remove the others of `names`: a
    file that was there before is not read as one of these. Raises OSError."""
    for name, text in texts.items():
        with replacing(directory / name) as fresh:
            fresh.write_text(text, encoding="utf-8")
    for name in set(names) - set(texts):
        with suppress(FileNotFoundError):
            (directory / name).unlink()


def write_error(path: Path, error: OSError) -> OSError:
    """The error for `path`, which could not be written because of `error`: with its name, and a remedy where `error`
    says enough for one."""
    trouble = f"{path} cannot be written ({error}); an existing file is unchanged"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return PermissionError(f"{trouble}: choose another directory, or change its permissions")
    for kind in (ConnectionError, TimeoutError):
        if isinstance(error, kind):
            return kind(f"{trouble}: check the object store and the network, and run the same command again")
    remedy = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = ": make room, and run the same command again"
    elif error.errno == errno.EFBIG:
        remedy = ": raise the limit on the size of files (ulimit -f), or choose another disk"
    elif error.errno is None:  # torch and safetensors keep it to themselves
        remedy = ": if the disk is full, make room, and run the same command again"
    return OSError(f"{trouble}{remedy}")


def remove_temporaries(directory: Path) -> None:
    """Remove the temporary files and directories that killed processes left in `directory`."""
    for temporary in directory.glob(".*.tmp"):
        if temporary.is_dir():
            remove_tree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def stamp(path: Path) -> Stamp | None:
    """The stamp of a file: a cache with it in the key reads a changed file again. None if there is no file."""
    if not path.is_file():
        return None
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def sha256(path: Path) -> str:
    """SHA-256 of the file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
