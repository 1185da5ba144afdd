"""A dataset that was damaged after its stage was done is made again before anything is trained on it."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from pathlib import Path

import pytest

from datagen import read_rows
from datagen.errors import ShardCorruptError
from datagen.schema import shard_path
from pipelines.config.presets import PRESETS
from pipelines.engine import locks
from pipelines.engine.scheduler import StageFailed, execute
from pipelines.engine.stage import Stage, StageContext, State, state
from pipelines.stages import generate as stages
from pipelines.stages.generate import dataset, generate_stage, repair_datasets


@pytest.mark.slow
def test_a_damaged_shard_of_a_finished_stage_is_made_again(ray_cluster: str, tmp_path: Path) -> None:
    smoke = PRESETS["smoke"]
    data = generate_stage(smoke, smoke.task)
    train = Stage("train", {}, lambda run: None, (data,))
    execute([data], tmp_path, slots=1)
    path = dataset(data.output(tmp_path))
    shards = [shard_path(path, split, 0) for split in ("train", "test")]
    sound = [shard.read_bytes() for shard in shards]

    evaluate = Stage("evaluate", {}, lambda run: None, (data,))
    shards[0].write_bytes(sound[0][:-100])
    shards[1].unlink()
    with pytest.raises(ShardCorruptError, match="part-00000"):
        read_rows(path, "train")
    assert state(data, tmp_path) is State.DONE
    repair_datasets([train, evaluate], tmp_path, "demo", print)
    assert [shard.read_bytes() for shard in shards] == sound

    execute([evaluate], tmp_path, slots=1)
    shards[1].unlink()
    repair_datasets([train, evaluate], tmp_path, "demo", print)  # it has not to be read any more
    assert not shards[1].exists()


def test_only_the_splits_that_are_read_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training split may have a hundred times the rows of what a registration reads."""
    smoke, verified = PRESETS["smoke"], list[str]()
    monkeypatch.setattr(stages, "generate", lambda task, split, *_, **__: verified.append(split))
    data = generate_stage(smoke, smoke.task)
    train, evaluate, register = (
        Stage(name, {}, lambda run: None, (data,)) for name in ("train", "evaluate", "register")
    )
    execute([data], tmp_path, slots=1)
    assert verified == ["train", "validation", "test"]
    for readers, splits in (
        ([register], ["test"]),
        ([evaluate, register], ["test"]),
        ([train], ["train", "validation"]),
        ([train, evaluate], ["train", "validation", "test"]),
    ):
        verified.clear()
        repair_datasets(readers, tmp_path, "demo", print)
        assert verified == splits


def test_a_repair_that_fails_is_a_failed_stage_and_no_refused_input(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def second_time(run: StageContext) -> None:
        if state(data, tmp_path) is State.DONE:
            raise full

    data = Stage("generate", {}, second_time)
    train = Stage("train", {}, lambda run: None, (data,))
    execute([data], tmp_path, slots=1)
    with pytest.raises(StageFailed, match=r"stage generate failed in .*No space left"):
        repair_datasets([train], tmp_path, "demo", print)


def test_a_repair_waits_for_another_pipeline_that_repairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, ran = ExitStack(), list[bool]()
    data = Stage("generate", {}, lambda run: ran.append(bool(waited)))
    train, waited = Stage("train", {}, lambda run: None, (data,)), list[float]()
    execute([data], tmp_path, slots=1)
    held.enter_context(locks.hold_locks([data], tmp_path, "demo"))  # as the pipeline that ran it does to its end
    held.enter_context(locks.hold_repair(data, tmp_path, "demo", print))

    def ends_meanwhile(seconds: float) -> None:
        waited.append(seconds)
        held.close()

    monkeypatch.setattr(locks.time, "sleep", ends_meanwhile)
    said = list[str]()
    repair_datasets([train], tmp_path, "demo", said.append)
    assert ran == [False, True] and len(waited) == 1
    assert len(said) == 1 and said[0].startswith("waiting: repair of generate: process ")
    with locks.hold_lock(locks.lock_file(data, tmp_path), tmp_path, "stage generate", "preset", "other"):
        repair_datasets([train], tmp_path, "demo", said.append)
    assert ran == [False, True, True] and len(said) == 1
