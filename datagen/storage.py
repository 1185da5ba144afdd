"""Local disks and S3-compatible object stores behind one interface.

A local path is a pathlib.Path. A path in an object store, s3://bucket/prefix, is a UPath from universal_pathlib; it is
typed as a Path because it has all the Path methods that the project calls. An object store differs from a disk in
three ways: a file appears, complete, when it is closed; a directory exists only while it holds files; nothing can be
renamed, so a directory counts as complete once an agreed last file is in it.
s3fs finds the endpoint and the credentials as every AWS tool does: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

ANSWER_SECONDS, ATTEMPTS = 3, 2  # of the first request to an object store


def as_path(where: str | Path) -> Path:
    """A local path, with ~ expanded, or a path in an object store if `where` begins with s3://.

    Raises ValueError if `where` is neither text nor a path, if the scheme is another one, if the URL contains
    credentials, if a package that S3 needs is not installed, or if ~ stands for the home of a user who does not exist.
    """
    if not isinstance(where, (str, Path)) and not hasattr(where, "fs"):  # which a UPath has
        raise ValueError(f"path = {where!r:.200}: must be a str or a Path: give a directory, or s3://bucket/prefix")
    if not isinstance(where, str) or "://" not in where:
        return cast(Path, where) if in_store(where) else local_path(where)
    scheme, _, rest = where.partition("://")
    if "@" in rest:  # anywhere, as a secret may contain a slash
        raise ValueError(
            f"{scheme}://***: must not contain credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    bucket = rest.partition("/")[0]
    if scheme != "s3" or not bucket or {*where} & {*"?#*[]"}:
        raise ValueError(f"{where!r}: must be a directory, or s3://bucket/prefix without any of ? # * [ ]")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError as error:
        raise ValueError(f"{where!r}: needs {error.name}: install this package with its extra `s3`") from error
    # Listings are not cached, as other processes write to the same directories.
    return cast(Path, UPath(where.rstrip("/"), use_listings_cache=False))


def local_path(where: str | Path) -> Path:
    """A local path, with ~ expanded. Raises ValueError if ~ stands for the home of a user who does not exist."""
    try:
        return Path(where).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(where)!r}: {error}: write the whole path") from error


def in_store(path: object) -> bool:
    """Whether a path lies in an object store."""
    return not isinstance(path, (str, Path))


def store_of(path: Path) -> tuple[Any, str, str]:
    """The file system (s3fs), the bucket and the key of a path in an object store."""
    where = cast(Any, path)
    bucket, key, _ = where.fs.split_path(where.path)
    return where.fs, bucket, key


def storage_errors() -> tuple[type[Exception], ...]:
    """What reading and writing raises: OSError, and where an object store was used, what the AWS client adds to it."""
    client, uploads = (sys.modules.get(f"{package}.exceptions") for package in ("botocore", "boto3"))
    ours = (client.BotoCoreError, client.ClientError) if client else ()
    return (OSError, *ours, *((uploads.Boto3Error,) if uploads else ()))  # the last is raised by MLflow's uploads


def check_reachable(path: Path) -> None:
    """Raises OSError, within seconds, if the object store of `path` does not respond, has no such bucket or denies
    access."""
    if not in_store(path):
        return
    fs, bucket, key = store_of(path)
    # s3fs and botocore each try several times, which takes minutes if the store is silent
    limits = {"connect_timeout": ANSWER_SECONDS, "read_timeout": ANSWER_SECONDS, "retries": {"max_attempts": 0}}
    fs = type(fs)(**{**fs.storage_options, "config_kwargs": limits}, skip_instance_cache=True)
    fs.retries = ATTEMPTS
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: bucket {bucket!r} does not exist: create it, or use another one") from error
    except PermissionError as error:
        raise PermissionError(
            f"{path}: the object store denied access ({error}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or "
            "AWS_PROFILE, and the permissions on this bucket"
        ) from error
    except storage_errors() as error:
        raise ConnectionError(
            f"{path}: the object store cannot be used ({error}): check AWS_ENDPOINT_URL, the credentials and the "
            "network"
        ) from error


def _check_once(path: Path, bucket: str) -> None:
    """`check_reachable` at the first use of a bucket in this process: what fails later is tried again by s3fs."""
    store = (os.environ.get("AWS_ENDPOINT_URL"), bucket)
    if store not in _reached:
        check_reachable(path)
        _reached.add(store)


_reached: set[tuple[str | None, str]] = set()


def put(file: Path, path: Path) -> None:
    """Move a local file to `path` in one step, replacing any file there: readers see the old file or the new one."""
    if in_store(path):
        fs, bucket, key = store_of(path)
        fs.put_file(str(file), f"{bucket}/{key}")
    else:
        os.replace(file, path)


def move(source: Path, path: Path) -> None:
    """Move a file to `path`, on the same disk or in the same object store, replacing any file there in one step."""
    if in_store(path):
        fs, bucket, key = store_of(path)
        _, source_bucket, source_key = store_of(source)
        fs.copy(f"{source_bucket}/{source_key}", f"{bucket}/{key}")
        fs.rm_file(f"{source_bucket}/{source_key}")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, path)


@contextmanager
def publishing(directory: Path, last: str) -> Iterator[Path]:
    """Yields a new local directory, whose files then become those of `directory`.

    Where the file named `last` exists, all others do: a local directory is renamed in one step, and in an object store
    `last` is uploaded after the others. If another process has published `directory` meanwhile, its files stay.
    """
    if not in_store(directory):
        fresh = directory.with_name(f".{directory.name}.{uuid4().hex}.tmp")
        fresh.mkdir(parents=True)
        try:
            yield fresh
            fresh.rename(directory)
        except OSError:
            if not (directory / last).exists():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        yield fresh
        files = [file for file in sorted(fresh.rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda file: file == fresh / last):
            put(file, directory / file.relative_to(fresh).as_posix())


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yields a local path to a file or directory: `path` itself, or a temporary download from the object store.

    Raises FileNotFoundError if the object store has nothing at `path`, and at the first use of a bucket as
    `check_reachable`.
    """
    if not in_store(path):
        yield path
        return
    fs, bucket, key = store_of(path)
    source = f"{bucket}/{key}"
    _check_once(path, bucket)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / path.name
        names = [name for name, info in fs.find(source, detail=True).items() if info["type"] == "file"]
        if not names:
            raise FileNotFoundError(f"{path} does not exist: check the path, or run the command that writes it")
        for name in names:
            target = Path(f"{copy}{name.removeprefix(source)}")
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(target))
        yield copy


def remove_tree(directory: Path) -> None:
    """Remove a directory and everything in it."""
    if in_store(directory):
        fs, bucket, key = store_of(directory)
        with suppress(FileNotFoundError):  # a listing may still name an object that is already deleted
            fs.rm(f"{bucket}/{key}", recursive=True)
    else:
        shutil.rmtree(directory)


def for_ray(path: Path) -> tuple[str, Any]:
    """(storage_path, storage_filesystem) for Ray Train and Tune.

    In an object store the file system is s3fs, so that one configuration serves everything: Ray's default, pyarrow's
    S3FileSystem, does not read the endpoint from the AWS config file.
    """
    if not in_store(path):
        return str(path), None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, bucket, key = store_of(path)
    return f"{bucket}/{key}", PyFileSystem(FSSpecHandler(fs))
