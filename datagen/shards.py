"""Generates, writes and checks single shards. Needs PyArrow, not Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from datagen.files import replacing, sha256
from datagen.rows import COLUMNS, NO_LABEL, TRACES, Ragged, Rows, uneven_traces
from datagen.schema import Shard, columns
from datagen.task import Task

HEAD_ROWS = 64  # first rows of an unlisted shard that are compared with the task's


def ensure_shard(path: Path, task: Task, split: str, seed: int, shard: int, rows: int, listed: Shard | None) -> Shard:
    """Generates the shard at `path` unless it is already finished, and returns its row count and checksum.

    listed: the shard's entry in dataset.json, None if it has none. Raises ValueError if a row has no answer.
    """
    standing = finished_shard(path, task, split, seed, shard, rows, listed)
    if standing is not None:
        return standing
    sampled = task.sample(split, seed, shard, rows)
    if (unasked := ~sampled.asked).any():
        raise ValueError(
            f"task {task.name}, split {split}, shard {shard}: row {int(unasked.argmax())} has no answer: every row "
            "must have one, as the loss and the evaluation are of answers; leave such rows out of `sample`"
        )
    table = to_table(sampled, vocabulary_size=len(task.vocabulary))
    with replacing(path) as temporary:
        # Parquet's dictionary encoding makes Rule 110 small: 13 bytes per row of 101 tokens.
        return write_shard(table, temporary)


def write_shard(table: pa.Table, path: Path) -> Shard:
    """Write a table as Parquet with page checksums.

    They detect a flipped bit in a shard whose own checksum is not yet listed in dataset.json.
    """
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)
    return Shard(table.num_rows, sha256(path))


def finished_shard(
    path: Path, task: Task, split: str, seed: int, shard: int, rows: int, listed: Shard | None
) -> Shard | None:
    """The shard at `path` if it exists, is intact and belongs to this task, else None.

    A listed shard is intact if it has the listed row count and checksum. An unlisted shard was left by a killed run; it
    is intact if it is valid Parquet with correct page checksums and its first rows are those that the task generates.
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
    """The table that `to_table` made, from the bytes of its shard.

    Raises ValueError if the bytes are not Parquet, if a page does not match its checksum, or if the columns, the number
    of rows, the tokens, the answers or the traces are not valid for a shard.
    """
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:  # OSError: a page checksum; ValueError: a bad name
        raise ValueError(f"is not a valid Parquet file ({error!s:.200})") from error
    kind = table.schema.field("tokens").type if "tokens" in table.column_names else pa.null()
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    wanted = columns(vocabulary_size, length, table.column_names)
    if not table.schema.equals(wanted):
        raise ValueError(f"has columns {_types(table.schema)}, must have {_types(wanted)}")
    if len(table) != rows:
        raise ValueError(f"has {len(table)} rows, must have {rows}")
    _check_rows(table, vocabulary_size, fixed=length is not None)
    return table


def _check_rows(table: pa.Table, vocabulary_size: int, fixed: bool) -> None:
    """Raises ValueError if a token or a label is not in the vocabulary, an answer lies outside its row, or traces have
    not a label for each token."""
    values = {name: table.column(name).combine_chunks() for name in (*COLUMNS, TRACES) if name in table.column_names}
    if any(column.null_count or column.flatten().null_count for column in values.values()):
        raise ValueError("has nulls, must have none in any column")
    traces = values.pop(TRACES, None)
    tokens, *answers = (column.flatten().to_numpy() for column in values.values())
    if tokens.size and tokens.max() >= vocabulary_size:
        raise ValueError(f"has token {tokens.max()}, must be below the vocabulary size {vocabulary_size}")
    lengths, *counts = (column.value_lengths().to_numpy() for column in values.values())
    if any((count != counts[0]).any() for count in counts) or (fixed and len(set(counts[0].tolist())) > 1):
        raise ValueError("has answer_* lists of different lengths within a row, or between rows of fixed length")
    start, length, depth = (answer.astype(np.int64) for answer in answers)
    outside = (start < 0) | (length < 1) | (start + length > np.repeat(lengths, counts[0])) | (depth < 0)
    if outside.any():
        row = int(np.repeat(np.arange(len(table)), counts[0])[outside.argmax()])
        raise ValueError(f"row {row} has an answer outside its tokens")
    if traces is not None:
        _check_traces(traces, lengths, vocabulary_size)


def _check_traces(traces: pa.ListArray, lengths: npt.NDArray[Any], vocabulary_size: int) -> None:
    """lengths: tokens in each row."""
    labels = traces.flatten().to_numpy()
    if labels.size and not NO_LABEL <= labels.min() <= labels.max() < vocabulary_size:
        raise ValueError(
            f"has labels {labels.min()}..{labels.max()} in its traces, must be {NO_LABEL}..{vocabulary_size - 1}"
        )
    if uneven_traces(traces.value_lengths().to_numpy(), lengths).any():
        raise ValueError("has traces that are not a multiple of their row's tokens")


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def to_table(rows: Rows, vocabulary_size: int) -> pa.Table:
    """The rows as an Arrow table with the columns of a shard."""
    row_length = None if isinstance(rows.tokens, Ragged) else rows.tokens.shape[1]
    texts = rows.texts()
    lists = rows.columns()
    schema = columns(vocabulary_size, row_length, {*lists, *texts})
    arrays = []
    for name, column in lists.items():
        kind = schema.field(name).type
        if not isinstance(column, Ragged):
            n, width = column.shape
            column = Ragged(column.reshape(-1), np.arange(n + 1) * width)
        flat = pa.array(column.values, type=kind.value_type)
        if pa.types.is_fixed_size_list(kind):
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=kind))
        else:
            arrays.append(pa.ListArray.from_arrays(pa.array(column.offsets, type=pa.int32()), flat, type=kind))
    arrays += [pa.array(column, type=pa.string()) for column in texts.values()]
    return pa.Table.from_arrays(arrays, schema=schema)
