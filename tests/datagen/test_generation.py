"""Generation on a real local Ray: same bytes, finished work kept, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datagen import Depo, Rows, Rule110, Task, generate, generation, load, read_rows
from datagen.errors import ForeignDatasetError
from datagen.reader import read_dataset
from datagen.schema import FORMAT_VERSION, Dataset, Shard, Split, fingerprint, shard_path
from datagen.shard_size import SHARD_LABELS, SHARD_ROWS, rows_per_shard
from datagen.shards import ensure_shard
from tests.waiting import Background, run

pytestmark = pytest.mark.slow

TASK = Rule110(cells=16, states=1, steps=6)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def times(directory: Path) -> dict[str, int]:
    return {str(file.relative_to(directory)): file.stat().st_mtime_ns for file in directory.rglob("part-*")}


def test_shards_are_the_same_bytes_alone_and_on_ray(ray_cluster: str, tmp_path: Path) -> None:
    sizes = [SHARD_ROWS, SHARD_ROWS, 100]
    alone = tmp_path / "alone"
    for number in reversed(range(3)):
        ensure_shard(shard_path(alone, "train", number), TASK, "train", 5, number, sizes[number], listed=None)
    on_ray = generate(TASK, "train", sum(sizes), 5, tmp_path)
    assert contents(alone / "train") == contents(on_ray / "train")
    assert sorted(contents(on_ray / "train")) == [f"part-0000{i}.parquet" for i in range(3)]


def test_a_watcher_is_told_of_every_shard(ray_cluster: str, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rows = 2 * SHARD_ROWS + 100
    generate(TASK, "train", rows, 0, tmp_path, watch=lambda done, all_rows: told.append((done, all_rows)))
    assert len(told) == 3 and told == sorted(told) and told[-1] == (rows, rows)


def test_same_bytes_from_a_second_run_elsewhere(ray_cluster: str, tmp_path: Path) -> None:
    first, second = (generate(TASK, "test", SHARD_ROWS + 7, 0, tmp_path / name) for name in ("a", "b"))
    assert contents(first) == contents(second)


def test_repeated_run_does_nothing_and_starts_no_ray(ray_cluster: str, tmp_path: Path) -> None:
    path = generate(TASK, "train", SHARD_ROWS + 1, 0, tmp_path)
    before, written = times(path), contents(path)
    program = f"""
import ray, datagen
path = datagen.generate(datagen.{TASK!r}, "train", {SHARD_ROWS + 1}, 0, {str(tmp_path)!r})
assert not ray.is_initialized()
print(path)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == str(path)
    assert times(path) == before
    assert contents(path) == written


def test_more_rows_only_add_and_fewer_change_nothing(ray_cluster: str, tmp_path: Path) -> None:
    path = generate(TASK, "train", SHARD_ROWS + 50, 0, tmp_path)
    few, before = read_rows(path, "train"), times(path)

    assert generate(TASK, "train", 2 * SHARD_ROWS + 50, 0, tmp_path) == path
    more = read_rows(path, "train")
    assert len(more) == 2 * SHARD_ROWS + 50
    assert (more.tokens[: len(few)] == few.tokens).all()
    assert times(path)["train/part-00000.parquet"] == before["train/part-00000.parquet"]

    before = times(path)
    assert generate(TASK, "train", 10, 0, tmp_path) == path
    assert times(path) == before
    assert (read_rows(path, "train", 10).tokens == few.tokens[:10]).all()


def test_dataset_json_tells_what_is_there(ray_cluster: str, tmp_path: Path) -> None:
    generate(TASK, "train", SHARD_ROWS + 3, 9, tmp_path)
    path = generate(TASK, "test", 4, 9, tmp_path)
    assert path == tmp_path / "rule110" / fingerprint(TASK, 9)

    content = json.loads((path / "dataset.json").read_text())
    assert content["task"] == "rule110"
    assert content["config"] == {"cells": 16, "states": 1, "steps": 6, "shallowest": None, "labels": "first"}
    assert content["vocabulary"] == ["0", "1", "?"]
    assert content["format_version"] == FORMAT_VERSION
    assert content["seed"] == 9
    assert {split: entry["rows"] for split, entry in content["splits"].items()} == {"train": SHARD_ROWS + 3, "test": 4}
    assert [shard["rows"] for shard in content["splits"]["train"]["shards"]] == [SHARD_ROWS, 3]
    for split in content["splits"]:
        assert load(path, split).num_rows == content["splits"][split]["rows"]  # and checks each sha256


def test_broken_shards_are_made_again(ray_cluster: str, tmp_path: Path) -> None:
    path = generate(TASK, "train", 3 * SHARD_ROWS, 0, tmp_path)
    sound = contents(path)
    damaged, missing = shard_path(path, "train", 0), shard_path(path, "train", 2)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    missing.unlink()
    kept = times(path)["train/part-00001.parquet"]

    generate(TASK, "train", 3 * SHARD_ROWS, 0, tmp_path)
    assert contents(path) == sound
    assert times(path)["train/part-00001.parquet"] == kept


def test_a_large_split_is_checked_in_ray_tasks(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process would read terabytes for hours."""
    path = generate(TASK, "train", 3 * SHARD_ROWS, 0, tmp_path)
    sound, before, listed = contents(path), times(path), (path / "dataset.json").stat().st_mtime_ns

    def in_the_driver(*_: object) -> None:
        raise AssertionError("the driver reads a shard")

    monkeypatch.setattr("datagen.generation.CHECKED_HERE", 2)
    monkeypatch.setattr("datagen.generation.finished_shard", in_the_driver)
    generate(TASK, "train", 3 * SHARD_ROWS, 0, tmp_path)
    assert times(path) == before and (path / "dataset.json").stat().st_mtime_ns == listed

    damaged = shard_path(path, "train", 1)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    generate(TASK, "train", 3 * SHARD_ROWS, 0, tmp_path)
    assert contents(path) == sound
    assert times(path) == {**before, "train/part-00001.parquet": damaged.stat().st_mtime_ns}


def test_leftovers_of_a_killed_run(ray_cluster: str, tmp_path: Path) -> None:
    """Without dataset.json: a temporary file goes, a shard of another length or none at all is made again."""
    sound = generate(TASK, "train", 2 * SHARD_ROWS, 0, tmp_path / "sound")
    path = tmp_path / "killed" / "rule110" / fingerprint(TASK, 0)
    ensure_shard(shard_path(path, "train", 0), TASK, "train", 0, 0, rows=10, listed=None)
    shard_path(path, "train", 1).write_bytes(b"not Parquet")
    (path / "train" / ".part-00001.parquet.0123.tmp").write_bytes(b"half")
    (path / ".dataset.json.0123.tmp").write_bytes(b"half")

    assert generate(TASK, "train", 2 * SHARD_ROWS, 0, tmp_path / "killed") == path
    assert contents(path) == contents(sound)


@pytest.mark.parametrize("accident", ["another config", "flipped", "cut", "another format"])
def test_an_unlisted_shard_that_is_not_ours_is_made_again(ray_cluster: str, accident: str, tmp_path: Path) -> None:
    """Before dataset.json has its checksum, a shard has to show by itself that it is whole and this task's."""
    sound = generate(TASK, "test", 500, 0, tmp_path / "sound")
    shard = shard_path(tmp_path / "other" / "rule110" / fingerprint(TASK, 0), "test", 0)
    content = bytearray(contents(sound)["test/part-00000.parquet"])
    if accident == "flipped":
        content[len(content) // 3] ^= 4
    shard.parent.mkdir(parents=True)
    shard.write_bytes(content[: 2 * len(content) // 3] if accident == "cut" else content)
    if accident == "another config":
        ensure_shard(shard.with_suffix(".other"), replace(TASK, steps=5), "test", 0, 0, 500, listed=None)
        shard.with_suffix(".other").rename(shard)
    if accident == "another format":
        pq.write_table(pq.read_table(shard).rename_columns(["words", *"abc"]), shard)
    path = generate(TASK, "test", 500, 0, tmp_path / "other")
    assert contents(path) == contents(sound)


def test_the_dataset_of_another_config_is_refused_and_stays(ray_cluster: str, tmp_path: Path) -> None:
    path = generate(TASK, "test", 20, 0, tmp_path)
    other = generate(replace(TASK, steps=5), "test", 20, 1, tmp_path)
    (path / "dataset.json").write_bytes((other / "dataset.json").read_bytes())
    before = contents(path)
    with pytest.raises(ForeignDatasetError, match=r"dataset\.json describes another dataset \(config, seed differ"):
        generate(TASK, "test", 20, 0, tmp_path)
    assert contents(path) == before


def test_killed_generation_leaves_whole_shards_and_goes_on(ray_cluster: str, tmp_path: Path) -> None:
    """The third shard is not made before the gate is open, so that the kill comes before the end."""
    shards, gate = 6, tmp_path / "gate"
    program = f"""
import sys, time
from pathlib import Path
import datagen
class Gated(datagen.Rule110):
    def sample(self, split, seed, shard, rows):
        while shard >= 2 and not Path({str(gate)!r}).exists():
            time.sleep(0.05)
        return super().sample(split, seed, shard, rows)
datagen.generate(Gated(**{asdict(TASK)}), "train", {shards * SHARD_ROWS}, 0, sys.argv[1])
"""
    command, environment = [sys.executable, "-c", program, str(tmp_path)], {**os.environ, "RAY_ADDRESS": ray_cluster}

    def dataset() -> Path:
        return next((tmp_path / "gated").glob("*"), tmp_path / "none")

    with Background(command, env=environment) as process:
        process.until(lambda: len(times(dataset())) == 2, "two shards")
        process.kill()

    path, finished = dataset(), times(dataset())
    assert len(finished) == 2
    assert not (path / "dataset.json").exists()
    assert all(pq.read_table(path / name).num_rows == SHARD_ROWS for name in finished)

    gate.touch()
    result = run(command, env=environment)
    assert result.returncode == 0, result.stderr
    assert {name: time for name, time in times(path).items() if name in finished} == finished
    assert len(contents(path / "train")) == shards  # no temporary file among them
    assert load(path, "train").num_rows == shards * SHARD_ROWS


@pytest.mark.parametrize(
    ("split", "rows", "seed", "root", "field"),
    [
        ("train", 0, 0, "data", "rows"),
        ("train", 1.0, 0, "data", "rows"),
        ("dev", 1, 0, "data", "split"),
        ("train", 1, -1, "data", "seed"),
        ("train", 1, 0, "gs://bucket/data", "'gs://bucket/data':"),
    ],
)
def test_refuses_before_any_work(
    split: str, rows: int, seed: int, root: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{field} .*must be"):
        generate(TASK, split, rows, seed, root)
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Silent(Task):
    """Its row 20 asks nothing, which the first rows do not tell."""

    vocabulary = ("0", "1")  # type: ignore[assignment]
    row_length = 2  # type: ignore[assignment]

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        answers = [[1]] * 20 + [[]] + [[1]] * 9
        return Rows.of([[0, 1]] * 30, answers, answers, answers)[:rows]


def test_a_row_without_an_answer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "part-00000.parquet"
    with pytest.raises(ValueError, match=r"task silent, split train, shard 0: row 20 has no answer: every row must"):
        ensure_shard(path, Silent(), "train", 0, 0, 30, None)
    assert not path.exists()
    assert ensure_shard(path, Silent(), "train", 0, 0, 20, None).rows == 20


def test_splits_that_two_processes_finish_at_once_are_both_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would read dataset.json before the other has written it."""
    path, both, read = tmp_path / "dataset", threading.Barrier(2), generation._dataset
    path.mkdir()

    def together(*about: Any) -> Dataset:
        found = read(*about)
        with suppress(threading.BrokenBarrierError):  # of the lock: the other has not come here
            both.wait(timeout=0.5)
        return found

    def finish(split: str) -> None:
        job = generation.SplitJob(TASK, split, 0, path, 9, Split(0, ()))
        generation.list_split(job, Split(9, (Shard(9, "0" * 64),)))

    monkeypatch.setattr(generation, "_dataset", together)
    threads = [threading.Thread(target=finish, args=(split,)) for split in ("train", "test")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_dataset(path).splits) == {"train", "test"}


def test_shards_of_long_rows_hold_fewer() -> None:
    assert rows_per_shard(TASK) == SHARD_ROWS
    assert 1 <= rows_per_shard(Rule110(cells=4096, states=64)) < 100

    @dataclass(frozen=True)
    class Endless(Rule110):
        row_length = 2**40  # type: ignore[assignment]

    assert rows_per_shard(Endless()) == 1


@pytest.mark.parametrize(
    "task",
    [
        Rule110(steps=4096, traced=True),
        Rule110(cells=32, states=8, labels="each", steps=64, traced=True),
        Depo(nodes=8, hops=80, queries=4, names=32, drawn="alike", pointers="edges", traced=True),
    ],
)
def test_shards_of_rows_with_long_traces_hold_fewer(task: Rule110 | Depo) -> None:
    """Of a full shard of the first, Arrow could not count the labels."""
    rows = task.sample("train", 0, 0, 500 if isinstance(task, Depo) else 1)
    assert rows.traces is not None and rows.traces.lengths.max() == task.trace_labels
    assert SHARD_LABELS - task.trace_labels < rows_per_shard(task) * task.trace_labels <= SHARD_LABELS
    assert rows_per_shard(replace(task, traced=False)) == SHARD_ROWS


def test_traces_fill_shards_or_are_refused_before_any_work(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_long = Rule110(cells=4096, states=64, steps=4096, traced=True)
    with pytest.raises(ValueError, match=rf"trace_labels = {too_long.trace_labels}: must be at most {SHARD_LABELS}, "):
        generate(too_long, "train", 1, 0, tmp_path / "none")
    assert not (tmp_path / "none").exists()

    task = Rule110(cells=6, states=1, steps=8, traced=True)
    monkeypatch.setattr("datagen.shard_size.SHARD_LABELS", 10 * task.trace_labels + 1)
    path = generate(task, "train", 23, 0, tmp_path)
    made = [task.sample("train", 0, number, rows).traces for number, rows in enumerate((10, 10, 3))]
    assert [shard.rows for shard in read_dataset(path).splits["train"].shards] == [10, 10, 3]
    read = read_rows(path, "train").traces
    assert read is not None and read.tolist() == [labels for part in made if part for labels in part.tolist()]
