"""The dataset format: columns of a shard, layout of the directory, dataset.json, fingerprint.

<root>/<task>/<fingerprint>/<split>/part-00000.parquet ...   and   <root>/<task>/<fingerprint>/dataset.json
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from datagen.errors import DatasetNotFoundError, FormatVersionError
from datagen.task import Task, canonical_json, task_identity

FORMAT_VERSION = 1  # raise it whenever the same config would give other rows or other columns
DATASET_FILE = "dataset.json"
SHARD_ROWS = 16_384
SHARD_TOKENS = 2**24  # keeps a shard of very long rows in memory: 32 MiB of uint16
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
    def from_json(cls, text: str, path: Path) -> Dataset:
        """Raises FormatVersionError for a newer format and DatasetNotFoundError for a text that is no dataset.json."""
        try:
            raw = json.loads(text)
            if raw["format_version"] > FORMAT_VERSION:
                raise FormatVersionError(
                    f"{path} has format version {raw['format_version']}, this code reads up to {FORMAT_VERSION}: "
                    "update the code, or generate the dataset again with it"
                )
            splits = {
                name: Split(split["rows"], tuple(Shard(**shard) for shard in split["shards"]))
                for name, split in raw["splits"].items()
            }
            return cls(**{**raw, "vocabulary": tuple(raw["vocabulary"]), "splits": splits})
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DatasetNotFoundError(
                f"{path} is not the dataset.json of a dataset ({error!r}): "
                "delete it and run `python pipelines/generate.py`; finished shards are kept"
            ) from error


def fingerprint(task: Task, seed: int) -> str:
    """16 hex digits of what shapes the rows: task, config, vocabulary, format version and seed."""
    shaped_by = {**task_identity(task), "vocabulary": task.vocabulary, "format": FORMAT_VERSION, "seed": seed}
    return hashlib.sha256(canonical_json(shaped_by).encode()).hexdigest()[:16]


def columns(vocabulary_size: int, row_length: int | None, solution: bool = False) -> pa.Schema:
    """Arrow schema of a shard whose rows all have `row_length` tokens, None: any number; nothing in it may be null.
    solution: with a text for people beside."""

    def field(name: str, kind: pa.DataType) -> pa.Field:
        return pa.field(name, kind, nullable=False)

    token = pa.uint16() if vocabulary_size <= 2**16 else pa.uint32()
    answer = pa.list_(field("element", pa.int32()))
    return pa.schema(
        [field("tokens", pa.list_(field("element", token), -1 if row_length is None else row_length))]
        + [field(name, answer) for name in ("answer_start", "answer_length", "answer_depth")]
        + ([field("solution", pa.string())] if solution else [])
    )


def rows_per_shard(row_length: int) -> int:
    """Rows of a full shard: SHARD_ROWS, or fewer where the longest row has more than 1,024 tokens."""
    return min(SHARD_ROWS, max(1, SHARD_TOKENS // row_length))


def shard_path(dataset: Path, split: str, shard: int) -> Path:
    return dataset / split / f"part-{shard:05d}.parquet"
