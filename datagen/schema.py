"""The dataset format: columns of a shard, directory layout, dataset.json and fingerprint.

Every shard has the columns tokens, answer_start, answer_length and answer_depth. Three more may follow: traces,
list<int32>, what the model should have worked out after each pass of a sleep: as many lists as there are traces, one
after the other, each with a label for every token of the row, pads included: a token id, or -1 for no label (see
Rows); and two columns of strings: solution, for people to read, and kind, by which an evaluation reports its results
("" for rows of no kind). All shards of a split have the same columns.

<root>/<task>/<fingerprint>/<split>/part-00000.parquet ...   and   <root>/<task>/<fingerprint>/dataset.json
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from datagen.canonical import fingerprint_of
from datagen.checks import require, require_whole
from datagen.contract import PROBE_ROWS, digest
from datagen.errors import DatasetNotFoundError, FormatVersionError
from datagen.rows import TEXT_COLUMNS, TRACES
from datagen.task import MAX_SEED, SPLITS, Task, check_split, task_identity

FORMAT_VERSION = 1  # increment it when the same config gives different rows or columns
DATASET_FILE = "dataset.json"
MAX_SHARDS = 100_000


@dataclass(frozen=True)
class Shard:
    rows: int
    sha256: str  # hex, of the Parquet file's bytes


@dataclass(frozen=True)
class Split:
    rows: int
    shards: tuple[Shard, ...]  # part-00000, part-00001, ...


@dataclass(frozen=True)
class Dataset:
    """The content of dataset.json."""

    format_version: int
    task: str
    config: dict[str, Any]
    vocabulary: tuple[str, ...]
    seed: int
    splits: dict[str, Split]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> Dataset:
        """Raises FormatVersionError if the format is too new, DatasetNotFoundError if `text` is not valid."""
        try:
            return cls._of(json.loads(text), path)
        except FormatVersionError:
            raise
        # json raises ValueError too, for bad syntax and for integers of too many digits.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DatasetNotFoundError(
                f"{path} is not a valid dataset.json ({type(error).__name__}: {error!s:.200}): "
                "delete it and run `python pipelines/generate.py` again; finished shards are kept"
            ) from error

    @classmethod
    def _of(cls, raw: Any, path: Path) -> Dataset:
        version = raw["format_version"]
        require_whole("format_version", version, 1, MAX_SEED)
        if version > FORMAT_VERSION:
            raise FormatVersionError(
                f"{path} has format version {version}, but this code reads versions up to {FORMAT_VERSION}: "
                "update the code, or generate the dataset again with this code"
            )
        require_whole("seed", raw["seed"], 0, MAX_SEED)
        for name, kind in (("task", str), ("config", dict), ("vocabulary", list), ("splits", dict)):
            if type(raw[name]) is not kind:
                raise ValueError(f"{name} must be of type {kind.__name__}, got {raw[name]!r:.40}")
        vocabulary = tuple(raw["vocabulary"])
        if not vocabulary or not all(type(word) is str for word in vocabulary):
            raise ValueError(f"vocabulary must be a non-empty list of strings, got {vocabulary!r:.40}")
        splits = {name: _split(name, split) for name, split in raw["splits"].items()}
        return cls(**{**raw, "vocabulary": vocabulary, "splits": splits})


def _split(name: str, raw: Any) -> Split:
    """Raises ValueError, KeyError or TypeError if `raw` does not describe a split."""
    check_split(name)
    shards = tuple(Shard(**shard) for shard in raw["shards"])
    for shard in shards:
        require_whole("rows of a shard", shard.rows, 1, MAX_SEED)
        if type(shard.sha256) is not str or not re.fullmatch("[0-9a-f]{64}", shard.sha256):
            raise ValueError(f"sha256 must be 64 hex digits, got {shard.sha256!r:.80}")
    there = sum(shard.rows for shard in shards)
    fits = type(raw["rows"]) is int and raw["rows"] == there > 0
    require(fits, f"rows of {name}", raw["rows"], f"{there}, as many as its shards have, and at least 1")
    return Split(there, shards)


def fingerprint(task: Task, seed: int) -> str:
    """A hash of everything that determines the rows: task, config, vocabulary, format version, seed. 16 hex digits.

    For the tasks of this package, FORMAT_VERSION stands for their code. For any other task the hash includes the first
    rows of each split, their kinds and solutions too, so that a dataset made before the task was edited is not used
    afterwards.
    """
    shaped_by = {**task_identity(task), "vocabulary": task.vocabulary, "format": FORMAT_VERSION, "seed": seed}
    if not type(task).__module__.startswith(f"{__package__}."):
        first = [task.sample(split, seed, 0, PROBE_ROWS) for split in SPLITS]
        shaped_by["rows"] = [digest(rows) for rows in first]
        if any(texts := [{name: column.tolist() for name, column in rows.texts().items()} for rows in first]):
            shaped_by["texts"] = texts
    return fingerprint_of(shaped_by)


def columns(vocabulary_size: int, row_length: int | None, optional: Collection[str] = ()) -> pa.Schema:
    """Arrow schema of a shard; no column may hold nulls.

    row_length: tokens in every row, None if rows differ in length; optional: names, among which are those of the
    optional columns that there are.
    """

    def field(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    token = pa.uint16() if vocabulary_size <= 2**16 else pa.uint32()
    whole = pa.list_(field("element", pa.int32()))
    return pa.schema(
        [field("tokens", pa.list_(field("element", token), -1 if row_length is None else row_length))]
        + [field(name, whole) for name in ("answer_start", "answer_length", "answer_depth")]
        + [field(name, whole) for name in (TRACES,) if name in optional]
        + [field(name, pa.string()) for name in TEXT_COLUMNS if name in optional]
    )


def shard_path(dataset: Path, split: str, shard: int) -> Path:
    return dataset / split / f"part-{shard:05d}.parquet"
