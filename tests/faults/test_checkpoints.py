"""A checkpoint with a damaged or missing file is not used but named in a warning, and the one before it is used."""

import json
import logging
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from datagen.files import sha256
from datagen.storage import in_store, put
from sleepmodel import Scale
from sleepmodel.distributed import ray_train
from sleepmodel.distributed.checkpoints import (
    KEPT,
    SavedCheckpoint,
    check_resumable,
    latest,
    open_latest,
    prune,
    write_manifest,
)
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.distributed.ray_worker import CHECKPOINTS
from sleepmodel.training.engine import save_whole
from sleepmodel.training.loop import build_model
from sleepmodel.training.optim import build_optimizer
from tests.sleepmodel.tiny import CONFIG, MODEL

SCALE = Scale(workers=2)
FILES = ("checkpoint.pt", "worker-0.json", "worker-1.json")


def write(directory: Path, step: int) -> Path:
    """A checkpoint as two workers of ZeRO 0 write it."""
    directory.mkdir(parents=True)
    write_manifest(directory, 1, step, SCALE)
    model = build_model(MODEL, CONFIG)
    save_whole(model, build_optimizer(model, CONFIG), directory, {"step": step})
    seal_first(directory, step)
    return directory


def seal_first(directory: Path, step: int) -> None:
    """The first worker's list, made where the other's does not lie: each has a directory of its own until Ray merges
    them."""
    own = directory.with_name(".worker-0")
    shutil.copytree(directory, own, ignore=shutil.ignore_patterns("worker-*"))
    write_manifest(own, 0, step, SCALE)
    shutil.move(own / "worker-0.json", directory)
    shutil.rmtree(own)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for step in (4, 8, 12):
        write(tmp_path / f"checkpoint_2026-01-01_00-00-{step:02}", step)
    return tmp_path


@pytest.mark.parametrize("tear", [Path.unlink, truncate, empty, flip])
@pytest.mark.parametrize("file", FILES)
def test_the_one_before_is_used_and_the_torn_one_named(
    checkpoints: Path, file: str, tear: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole, torn = checkpoints / "checkpoint_2026-01-01_00-00-08", checkpoints / "checkpoint_2026-01-01_00-00-12"
    assert latest(checkpoints) == SavedCheckpoint(torn, 12, 2, 0) and not caplog.records
    tear(torn / file)
    with caplog.at_level(logging.WARNING):
        assert latest(checkpoints) == SavedCheckpoint(whole, 8, 2, 0)
    (message,) = [record.getMessage() for record in caplog.records]
    # a flipped bit in a list may be in the name of a file that is then missing
    assert str(torn) in message and (file in message or tear is flip), message


def test_every_file_of_a_checkpoint_was_torn_above(checkpoints: Path) -> None:
    assert {file.name for file in latest(checkpoints).path.iterdir()} == set(FILES)  # type: ignore[union-attr]


def test_a_worker_that_did_not_finish_is_missed_whatever_the_others_wrote(checkpoints: Path) -> None:
    for name in ("08", "12"):
        (checkpoints / f"checkpoint_2026-01-01_00-00-{name}" / "worker-1.json").unlink()
    found = latest(checkpoints)
    assert found is not None and found.step == 4


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read to verify them."""
    files = list[Path]()

    def noted(path: Path) -> str:
        files.append(path)
        return sha256(path)

    monkeypatch.setattr("sleepmodel.distributed.checkpoints.sha256", noted)
    return files


def test_a_resume_verifies_the_latest_once_and_the_one_before_only_if_it_is_damaged(
    checkpoints: Path, read: list[Path]
) -> None:
    """They may have many gigabytes, and the driver reads none."""
    whole, torn = (checkpoints / f"checkpoint_2026-01-01_00-00-{step}" for step in ("08", "12"))
    prune(checkpoints)
    check_resumable(checkpoints, Scale(workers=1))
    assert not read
    with ExitStack() as held:
        assert open_latest(checkpoints, held) == (SavedCheckpoint(torn, 12, 2, 0), torn)
    assert read == [torn / "checkpoint.pt"]
    read.clear()
    truncate(torn / "checkpoint.pt")
    with ExitStack() as held:
        assert open_latest(checkpoints, held) == (SavedCheckpoint(whole, 8, 2, 0), whole)
    assert read == [torn / "checkpoint.pt", whole / "checkpoint.pt"]


def test_cleaning_leaves_the_last_ones_and_one_more_that_may_be_torn(checkpoints: Path) -> None:
    unfinished = write(checkpoints / "checkpoint_2026-01-01_00-00-20", 20)
    (unfinished / "worker-1.json").unlink()
    torn = write(checkpoints / "checkpoint_2026-01-01_00-00-16", 16)
    truncate(torn / "checkpoint.pt")
    prune(checkpoints)
    assert [path.name[-2:] for path in sorted(checkpoints.iterdir())] == ["08", "12", "16"] and KEPT == 2
    prune(checkpoints / "nowhere")


def test_a_run_that_is_killed_at_each_save_keeps_the_last_whole_one(checkpoints: Path) -> None:
    """Each time it leaves a checkpoint that is cut off, beside all its lists."""
    whole = checkpoints / "checkpoint_2026-01-01_00-00-12"
    for second in range(16, 24):
        prune(checkpoints)
        with ExitStack() as held:
            assert open_latest(checkpoints, held, discard=True) == (SavedCheckpoint(whole, 12, 2, 0), whole)
        truncate(write(checkpoints / f"checkpoint_2026-01-01_00-00-{second}", 16) / "checkpoint.pt")
    assert len(list(checkpoints.iterdir())) == KEPT + 2  # one that was found to be torn, and the last


@pytest.mark.slow
def test_a_checkpoint_in_an_object_store_is_downloaded_once(checkpoints: Path, store: Path, read: list[Path]) -> None:
    for file in checkpoints.rglob("*.*"):
        if file.is_file():
            put(file, store / file.relative_to(checkpoints).as_posix())
    flipped = store / "checkpoint_2026-01-01_00-00-12"
    (flipped / "checkpoint.pt").write_bytes(b"another")
    with ExitStack() as held:
        found = open_latest(store, held, discard=True)
        assert found is not None and found[0] == SavedCheckpoint(store / "checkpoint_2026-01-01_00-00-08", 8, 2, 0)
        assert {file.name for file in found[1].iterdir()} == set(FILES)
        assert read and not any(map(in_store, read))  # what is verified is what will be loaded
    assert not found[1].exists() and not (flipped / "worker-0.json").exists()


def test_the_steps_decide_which_is_last_not_the_clock(checkpoints: Path) -> None:
    """A machine whose clock is an hour behind goes on with a run."""
    write(checkpoints / "checkpoint_2025-12-31_23-00-00", 16)
    found = latest(checkpoints)
    assert found is not None and found.step == 16


@pytest.mark.parametrize(
    ("stage", "workers", "other_stage", "other_workers", "fits"),
    [(0, 2, 0, 1, True), (0, 1, 0, 3, True), (2, 2, 2, 2, True), (2, 2, 2, 1, False), (0, 2, 1, 2, False)],
)
def test_another_scale_goes_on_or_is_refused_before_any_work(
    tmp_path: Path, stage: int, workers: int, other_stage: int, other_workers: int, fits: bool
) -> None:
    write_partitions(tmp_path / "checkpoint_1", 4, Scale(workers=workers, zero_stage=stage))
    scale = Scale(workers=other_workers, zero_stage=other_stage)
    if fits:
        check_resumable(tmp_path, scale)
        return
    with pytest.raises(ValueError, match=rf"checkpoint_1: was written by {workers} workers with zero_stage = {stage}"):
        check_resumable(tmp_path, scale)


def write_partitions(directory: Path, step: int, scale: Scale) -> None:
    """A checkpoint of workers that wrote a file each."""
    for rank in range(scale.workers):
        own = directory.with_name(f".{rank}") / directory.name
        own.mkdir(parents=True)
        (own / f"partition-{rank}").write_text(directory.name)
        write_manifest(own, rank, step, scale)
        shutil.copytree(own, directory, dirs_exist_ok=True)
        shutil.rmtree(own.parent)


def begins(root: Path, scale: Scale, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether `fit` begins to train at this scale; it raises if the checkpoints do not fit."""

    class Begun(Exception):
        pass

    def trainer(*_: object) -> None:
        raise Begun

    monkeypatch.setattr(ray_train, "_trainer", trainer)
    job = TrainingJob("t", MODEL, replace(CONFIG, grad_clip=0.0), dataset="", output=str(root), scale=scale)
    with suppress(Begun):
        ray_train.fit(job)
        return False
    return True


def test_a_damaged_checkpoint_of_another_scale_refuses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It will not be used: the training begins anew, or goes on from the one before it."""
    two, one = (Scale(workers=workers, zero_stage=1) for workers in (2, 1))
    before, torn = (tmp_path / CHECKPOINTS / f"checkpoint_2026-01-01_00-00-{step:02}" for step in (4, 8))
    write_partitions(torn, 8, two)
    with pytest.raises(ValueError, match="08: was written by 2 workers with zero_stage = 1, and 1 workers"):
        begins(tmp_path, one, monkeypatch)
    truncate(torn / "partition-1")
    assert begins(tmp_path, one, monkeypatch)
    write_partitions(before, 4, one)
    assert begins(tmp_path, one, monkeypatch)
    shutil.rmtree(before)
    write_partitions(before, 4, two)
    with pytest.raises(ValueError, match="04: was written by 2 workers with zero_stage = 1, and 1 workers"):
        begins(tmp_path, one, monkeypatch)


def test_lists_are_json_that_says_who_wrote(checkpoints: Path) -> None:
    listing = json.loads((checkpoints / "checkpoint_2026-01-01_00-00-04" / "worker-1.json").read_text())
    assert listing == {"step": 4, "workers": 2, "zero_stage": 0, "files": {}}
