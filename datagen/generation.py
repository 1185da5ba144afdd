"""Generates datasets with Ray, one Ray task per shard."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from datagen.checks import require_whole
from datagen.cluster import connect_to_ray, connected_to_ray
from datagen.errors import ForeignDatasetError
from datagen.files import locked, remove_temporaries, replacing
from datagen.ray_tasks import WAIT_MINUTES, progress_bar, run_tasks, shared
from datagen.reader import read_dataset
from datagen.schema import (
    DATASET_FILE,
    FORMAT_VERSION,
    MAX_SHARDS,
    Dataset,
    Shard,
    Split,
    fingerprint,
    shard_path,
)
from datagen.shard_size import rows_per_shard
from datagen.shards import ensure_shard, finished_shard
from datagen.storage import as_path, in_store
from datagen.task import Task

CHECKED_HERE = 8  # shards of a split that this process checks sooner than tasks of a Ray would


def generate(
    task: Task,
    split: str,
    rows: int,
    seed: int,
    root: str | Path,
    *,
    watch: Callable[[int, int], None] | None = None,
    wait_minutes: float = WAIT_MINUTES,
) -> Path:
    """Generate at least `rows` rows of one split of a task's dataset, and return the dataset's directory.

    The directory is `<root>/<task>/<fingerprint>/`; the root may be s3://bucket/prefix. The shards are generated on the
    Ray cluster that this process is connected to, else on $RAY_ADDRESS, else on a local Ray, which is started and left
    running. Finished shards are kept if their checksums are right. They are read here, or those of a large split in Ray
    tasks if this process is connected; no Ray is started if all are finished. A split never shrinks: if it has more
    rows than requested, `read_rows(path, split, rows)` reads the first `rows`, which are the same. Only one process at
    a time may generate a split, and in an object store a dataset.

    watch: called with the rows that are done and the rows of the split after each shard, instead of the bar on the
    terminal. wait_minutes: how long to wait for a node with a core, if there is none, until it is a TimeoutError.

    Raises, before any work: ValueError for a bad split, number of rows, seed or root, or for traces too long for a
    shard; ForeignDatasetError if the directory holds another dataset; DatasetNotFoundError if its dataset.json is not
    valid; FormatVersionError if its format is newer than this code reads.
    """
    require_whole("rows", rows, 1, MAX_SHARDS * rows_per_shard(task))
    task.sample(split, seed, shard=0, rows=1)  # raises for a bad split or seed
    task.check_rows(split, rows)
    path = as_path(root).absolute() / task.name / fingerprint(task, seed)
    remove_temporaries(path / split)
    listed = _dataset(path, task, seed).splits.get(split, Split(0, ()))
    job = SplitJob(task, split, seed, path, max(rows, listed.rows), listed)
    in_tasks = len(listed.shards) > CHECKED_HERE and connected_to_ray()
    if in_tasks or not job.finished():
        found = Split(job.rows, tuple(_run(job, watch, wait_minutes)))
        list_split(job, found)
    return path


@dataclass(frozen=True)
class SplitJob:
    """One split to generate. rows: in all its shards; listed: its entry in dataset.json before this run."""

    task: Task
    split: str
    seed: int
    path: Path
    rows: int
    listed: Split

    @property
    def shard_rows(self) -> list[int]:
        full = rows_per_shard(self.task)
        return [min(full, self.rows - start) for start in range(0, self.rows, full)]

    def listed_shard(self, number: int) -> Shard | None:
        return self.listed.shards[number] if number < len(self.listed.shards) else None

    def finished(self) -> bool:
        """Whether every shard is listed in dataset.json and its file matches the entry."""
        return len(self.listed.shards) == len(self.shard_rows) and all(
            finished_shard(
                shard_path(self.path, self.split, number),
                self.task,
                self.split,
                self.seed,
                number,
                rows,
                self.listed_shard(number),
            )
            for number, rows in enumerate(self.shard_rows)
        )


def _dataset(path: Path, task: Task, seed: int) -> Dataset:
    """The content of dataset.json, or a dataset without splits if there is none.

    Raises ForeignDatasetError if it describes another task, config or seed.
    """
    ours = Dataset(FORMAT_VERSION, task.name, task.identity(), task.vocabulary, seed, splits={})
    if not (path / DATASET_FILE).exists():
        return ours
    standing = read_dataset(path)
    described = json.loads(replace(standing, splits={}).to_json())
    if described != json.loads(ours.to_json()):
        other = [name for name, value in json.loads(ours.to_json()).items() if described[name] != value]
        raise ForeignDatasetError(
            f"{path / DATASET_FILE} describes another dataset ({', '.join(other)} differ) and is not overwritten: "
            "move this directory away, or generate under another root"
        )
    return standing


def list_split(job: SplitJob, found: Split) -> None:
    """Enter a finished split into dataset.json, beside those that other processes enter. Raises as `generate`."""
    tokenizer = job.task.read_tokenizer()
    if found == job.listed and tokenizer is None:
        return
    with nullcontext() if in_store(job.path) else locked(job.path):
        remove_temporaries(job.path)
        if tokenizer is not None:
            tokenizer.write(job.path)
        if found != job.listed:
            dataset = _dataset(job.path, job.task, job.seed)
            with replacing(job.path / DATASET_FILE) as temporary:
                temporary.write_text(replace(dataset, splits={**dataset.splits, job.split: found}).to_json())


def _run(job: SplitJob, watch: Callable[[int, int], None] | None, wait_minutes: float) -> list[Shard]:
    """Run one Ray task per shard, which keeps a finished one; returns the shards in order."""
    connect_to_ray()
    task = shared(job.task)
    done = 0
    with progress_bar(f"{job.task.name} {job.split}", job.rows, shown=watch is None) as advance:

        def collected(shard: Shard) -> None:
            nonlocal done
            done += shard.rows
            advance(shard.rows)
            if watch:
                watch(done, job.rows)

        calls = (
            (shard_path(job.path, job.split, number), task, job.split, job.seed, number, rows, job.listed_shard(number))
            for number, rows in enumerate(job.shard_rows)
        )
        return run_tasks(ensure_shard, calls, collected, wait_minutes)
