"""One shard: made, written and checked. Parquet alone, no Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datagen.files import replacing, sha256
from datagen.rows import COLUMNS, Ragged, Rows
from datagen.schema import Shard, columns
from datagen.task import Task

HEAD_ROWS = 64  # of a shard, by which another task's is told


def ensure_shard(path: Path, task: Task, split: str, seed: int, shard: int, rows: int, listed: Shard | None) -> Shard:
    """Makes the shard at `path` unless it stands there finished, and returns its rows and checksum.

    `listed` is what dataset.json says of this shard, None where it says nothing.
    """
    standing = finished_shard(path, task, split, seed, shard, rows, listed)
    if standing is not None:
        return standing
    table = to_table(task.sample(split, seed, shard, rows), vocabulary_size=len(task.vocabulary))
    with replacing(path) as temporary:
        # Three token values in dictionary pages: 13 bytes a row of 101 tokens.
        return write_shard(table, temporary)


def write_shard(table: pa.Table, path: Path) -> Shard:
    """Write a table as Parquet whose pages have checksums, which tell where a bit was flipped before the shard was
    listed with its own."""
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return Shard(table.num_rows, sha256(path))


def finished_shard(
    path: Path, task: Task, split: str, seed: int, shard: int, rows: int, listed: Shard | None
) -> Shard | None:
    """The shard at `path` if it is there, sound and of this task, else None.

    Sound is what has the listed checksum. A shard not yet listed was left by a killed run: it has to be readable, its
    pages have to have their checksums, and it has to begin with the rows that the task begins it with.
    """
    if not path.exists():
        return None
    found = Shard(rows, sha256(path))
    if listed is not None:
        return found if found == listed else None
    head = to_table(task.sample(split, seed, shard, min(rows, HEAD_ROWS)), len(task.vocabulary))
    try:
        table = read_table(path.read_bytes(), rows, len(task.vocabulary))
    except ValueError:
        return None
    return found if table.slice(0, len(head)).equals(head) else None


def read_table(content: bytes, rows: int, vocabulary_size: int) -> pa.Table:
    """A shard's bytes as the table that `to_table` made.

    Raises ValueError where they are no Parquet, a page is not what its checksum says, or columns, number of rows,
    tokens or answers are not those of a shard.
    """
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:  # Arrow's own, a page's checksum, a name that is no text
        raise ValueError(f"is not whole Parquet ({error!s:.200})") from error
    kind = table.schema.field("tokens").type if "tokens" in table.column_names else pa.null()
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    wanted = columns(vocabulary_size, length, solution="solution" in table.column_names)
    if not table.schema.equals(wanted):
        raise ValueError(f"has columns {_types(table.schema)}, must have {_types(wanted)}")
    if len(table) != rows:
        raise ValueError(f"has {len(table)} rows, must have {rows}")
    _check_rows(table, vocabulary_size, fixed=length is not None)
    return table


def _check_rows(table: pa.Table, vocabulary_size: int, fixed: bool) -> None:
    """Raises ValueError where a token is not in the vocabulary or an answer not in its row."""
    values = {name: table.column(name).combine_chunks() for name in COLUMNS}
    if any(column.null_count or column.flatten().null_count for column in values.values()):
        raise ValueError("has nulls, which no column may have")
    tokens, *answers = (column.flatten().to_numpy() for column in values.values())
    if tokens.size and tokens.max() >= vocabulary_size:
        raise ValueError(f"has token {tokens.max()}, must be below the {vocabulary_size} of the vocabulary")
    lengths, *counts = (column.value_lengths().to_numpy() for column in values.values())
    if any((count != counts[0]).any() for count in counts) or (fixed and len(set(counts[0].tolist())) > 1):
        raise ValueError("has answer_* of different lengths in one row, or over rows of one length")
    start, length, depth = (answer.astype(np.int64) for answer in answers)
    outside = (start < 0) | (length < 1) | (start + length > np.repeat(lengths, counts[0])) | (depth < 0)
    if outside.any():
        row = int(np.repeat(np.arange(len(table)), counts[0])[outside.argmax()])
        raise ValueError(f"has an answer that is not in its row, {row}")


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


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
