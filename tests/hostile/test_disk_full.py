"""A disk that is full while something is written: an error that names the file, what stood there intact, no litter,
and the same call goes through when there is space."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from datagen.files import write_error
from datagen.gsm.importing import import_official
from datagen.schema import shard_path
from datagen.shards import ensure_shard
from sleepmodel import Memory, load, save
from sleepmodel.inference.session import Session
from sleepmodel.training.engine import CHECKPOINT, LocalEngine
from sleepmodel.training.loop import build_model
from tests.hostile.imports import GSM_LINE
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

ROOM = 700  # bytes that a file may still have: less than each of these writes


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows beyond ROOM, as on a disk without space; a tmpfs would need more rights than tests have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def shard(place: Path, seed: int) -> Path:
    path = shard_path(place, "train", seed)
    ensure_shard(path, TASK, "train", seed, 0, 300, listed=None)
    return path


def model(place: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    save(build_model(MODEL, CONFIG), place / "model")
    load(place / "model")
    return place / "model" / "model.safetensors"


def memory(place: Path, seed: int) -> Path:
    session = Session(build_model(MODEL, CONFIG))
    session.read(torch.full((1, 5), seed))
    session.memory.save(place / "memory")
    Memory.load(place / "memory")
    return place / "memory"


def imported(place: Path, seed: int) -> Path:
    if not (place / "problems").exists():
        (place / "problems").write_text(json.dumps(GSM_LINE))
    return shard_path(import_official(place / "problems", place), "test", 0)


def checkpoint(place: Path, seed: int) -> Path:
    engine = LocalEngine(build_model(MODEL, CONFIG), CONFIG)
    engine.save(place, {"seed": seed})
    assert engine.load(place) == {"seed": seed}
    return place / CHECKPOINT


@pytest.mark.parametrize("write", [shard, model, memory, imported, checkpoint])
def test_what_stood_there_stays_and_the_same_call_goes_on(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    first = write(tmp_path, 0)
    if write is shard:
        first.unlink()  # a shard that stands is not written again
    before = files()
    with (
        full_disk(),
        pytest.raises(OSError, match=rf"{first.name} cannot be written .*(make room|limit on the size of files)"),
    ):
        write(tmp_path, 0)
    assert files() == before
    assert write(tmp_path, 0) == first and first.exists()


def test_a_store_that_breaks_off_is_no_full_disk(tmp_path: Path) -> None:
    """The error keeps its type, by which others know a store that does not answer."""
    for kind in (ConnectionResetError, TimeoutError):
        error = write_error(tmp_path / "x", kind("while writing"))
        assert isinstance(error, ConnectionError if kind is ConnectionResetError else TimeoutError)
        assert "check the object store and the network" in str(error) and "make room" not in str(error)


def test_the_remedy_is_for_what_went_wrong(tmp_path: Path) -> None:
    remedies = {
        None: "if the disk is full, make room, and run the same command again",
        errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another disk",
        errno.ENOSPC: "make room, and run the same command again",
        errno.EDQUOT: "make room, and run the same command again",
        errno.EACCES: "choose another directory, or change its permissions",
        errno.EROFS: "choose another directory, or change its permissions",
        errno.EIO: "an existing file is unchanged",  # and no remedy
    }
    for number, remedy in remedies.items():
        cause = OSError(number, os.strerror(number)) if number else OSError("of a library")
        error = write_error(tmp_path / "x", cause)
        assert str(error).startswith(f"{tmp_path / 'x'} cannot be written") and str(error).endswith(remedy)
        assert str(cause) in str(error)
