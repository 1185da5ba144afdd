"""What differs between a root on a disk and one in an S3-compatible store, so that no other module has to know.

A path on a disk is a pathlib.Path. One in a store, s3://bucket/prefix, is a UPath of universal_pathlib, which has the
methods of a Path that are used here, and so is typed as one. There a file appears whole when it is closed, a directory
is there while something lies in it, and nothing can be renamed: what has to appear at once needs a last file.
Where the store is and who we are there, s3fs finds as every AWS tool does: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast


def as_path(where: str | Path) -> Path:
    """A path on a disk, or in a store where it begins with s3://.

    Raises ValueError for another scheme, for credentials in it, and where the packages that S3 needs are missing.
    """
    if not isinstance(where, str) or "://" not in where:
        return cast(Path, where) if in_store(where) else Path(where)
    scheme, _, rest = where.partition("://")
    if "@" in rest:  # a secret may hold a slash, so that it need not stand before the first one
        raise ValueError(f"{scheme}://***: holds credentials; give them in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    bucket = rest.partition("/")[0]
    if scheme != "s3" or not bucket or {*where} & {*"?#*[]"}:
        raise ValueError(f"{where!r}: must be a directory, or s3://bucket/prefix without any of ? # * [ ]")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError as error:
        raise ValueError(f"{where!r}: needs {error.name}: install this package with its extra `s3`") from error
    # others write there too, so that a listing holds for no longer than it is looked at
    return cast(Path, UPath(where.rstrip("/"), use_listings_cache=False))


def in_store(path: object) -> bool:
    """Whether a path is one in a store."""
    return not isinstance(path, (str, Path))


def store_of(path: Path) -> tuple[Any, str, str]:
    """The file system (s3fs), the bucket and the key of a path in a store."""
    where = cast(Any, path)
    bucket, key, _ = where.fs.split_path(where.path)
    return where.fs, bucket, key


def check_reachable(path: Path) -> None:
    """Raise OSError, with what to do, where a path's store does not answer, has no such bucket or refuses us."""
    if not in_store(path):
        return
    from botocore.exceptions import BotoCoreError

    fs, bucket, key = store_of(path)
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: there is no bucket {bucket!r}: make it, or name another") from error
    except PermissionError as error:
        raise PermissionError(
            f"{path}: the store refuses us ({error}): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, "
            "and what they may do with this bucket"
        ) from error
    except (OSError, BotoCoreError) as error:
        raise ConnectionError(
            f"{path}: the store cannot be used ({error}): check AWS_ENDPOINT_URL, the credentials and the network"
        ) from error


def put(file: Path, path: Path) -> None:
    """Move a local file to `path`, where it appears whole, in the place of what stood there."""
    if in_store(path):
        fs, bucket, key = store_of(path)
        fs.put_file(str(file), f"{bucket}/{key}")
    else:
        os.replace(file, path)


@contextmanager
def publishing(directory: Path, last: str) -> Iterator[Path]:
    """Yields a new local directory whose files become those of `directory`; the one named `last` is there when all
    are, on a disk because the directory is renamed, in a store because it is sent after the others."""
    if not in_store(directory):
        fresh = directory.with_name(f".{directory.name}.{os.getpid()}")
        fresh.mkdir(parents=True, exist_ok=True)
        yield fresh
        fresh.rename(directory)
        return
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary)
        yield fresh
        files = [file for file in sorted(fresh.rglob("*")) if file.is_file()]
        for file in sorted(files, key=lambda file: file == fresh / last):
            put(file, directory / file.relative_to(fresh).as_posix())


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """A file or directory for code that needs it on a disk: itself, or a copy that goes again. Raises
    FileNotFoundError where there is nothing."""
    if not in_store(path):
        yield path
        return
    fs, bucket, key = store_of(path)
    source = f"{bucket}/{key}"
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / path.name
        names = [name for name, info in fs.find(source, detail=True).items() if info["type"] == "file"]
        if not names:
            raise FileNotFoundError(f"{path}: there is nothing here")
        for name in names:
            target = Path(f"{copy}{name.removeprefix(source)}")
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(target))
        yield copy


def remove_tree(directory: Path) -> None:
    """Remove a directory and all in it."""
    if in_store(directory):
        fs, bucket, key = store_of(directory)
        with suppress(FileNotFoundError):  # a store may list for a moment what is gone
            fs.rm(f"{bucket}/{key}", recursive=True)
    else:
        shutil.rmtree(directory)


def for_ray(path: Path) -> tuple[str, Any]:
    """A path as Ray Train and Tune take it: `storage_path` and `storage_filesystem`. In a store it is s3fs too, so that
    there is one way to configure it; Ray's own choice, pyarrow's S3, reads no endpoint from the AWS config file."""
    if not in_store(path):
        return str(path), None
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, bucket, key = store_of(path)
    return f"{bucket}/{key}", PyFileSystem(FSSpecHandler(fs))
