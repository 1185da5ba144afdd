"""One shard: made, written and checked. Parquet alone, no Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datagen.files import replacing, sha256
from datagen.rows import Ragged, Rows
from datagen.schema import Shard, columns
from datagen.task import Task


def ensure_shard(path: Path, task: Task, split: str, seed: int, shard: int, rows: int, listed: Shard | None) -> Shard:
    """Makes the shard at `path` unless it stands there finished, and returns its rows and checksum.

    `listed` is what dataset.json says of this shard, None where it says nothing.
    """
    standing = finished_shard(path, rows, listed)
    if standing is not None:
        return standing
    table = to_table(task.sample(split, seed, shard, rows), vocabulary_size=len(task.vocabulary))
    with replacing(path) as temporary:
        # Three token values in dictionary pages: 13 bytes a row of 101 tokens.
        pq.write_table(table, temporary, compression="zstd")
        return Shard(rows, sha256(temporary))


def finished_shard(path: Path, rows: int, listed: Shard | None) -> Shard | None:
    """The shard at `path` if it is there and sound, else None.

    Sound is what has the listed checksum. A shard not yet listed was left by a killed run: as it is renamed into its
    place when it is whole, its number of rows is enough.
    """
    if not path.exists():
        return None
    shard = Shard(rows, sha256(path))
    if listed is not None:
        return shard if shard == listed else None
    try:
        return shard if pq.read_metadata(path).num_rows == rows else None
    except pa.ArrowInvalid:
        return None


def to_table(rows: Rows, vocabulary_size: int) -> pa.Table:
    """The rows as one Arrow table of the dataset's columns."""
    row_length = None if isinstance(rows.tokens, Ragged) else rows.tokens.shape[1]
    schema = columns(vocabulary_size, row_length, solution=rows.solution is not None)
    arrays = []
    for name, column in rows.columns().items():
        kind = schema.field(name).type
        if not isinstance(column, Ragged):
            n, width = column.shape
            column = Ragged(column.reshape(-1), np.arange(n + 1) * width)
        flat = pa.array(column.values, type=kind.value_type)
        if pa.types.is_fixed_size_list(kind):
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
        else:
            arrays.append(pa.ListArray.from_arrays(pa.array(column.offsets, type=pa.int32()), flat, type=kind))
    if rows.solution is not None:
        arrays.append(pa.array(rows.solution, type=pa.string()))
    return pa.Table.from_arrays(arrays, schema=schema)
