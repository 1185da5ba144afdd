"""Reads datasets, a split at once or block by block, and verifies the checksum of every shard that it reads.

Needs NumPy and PyArrow, not Ray.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from datagen.blocks import Blocks
from datagen.errors import (
    DatasetNotFoundError,
    NotEnoughRowsError,
    ShardCorruptError,
    ShardMissingError,
    SplitNotFoundError,
)
from datagen.rows import COLUMNS, TRACES, Ragged, Rows, pad_id
from datagen.schema import DATASET_FILE, Dataset, Shard, shard_path
from datagen.shards import read_table
from datagen.storage import as_path

BLOCK_TOKENS = 2**26  # 128 MiB of uint16
KIND = "kind"
GENERATE = "`python pipelines/generate.py`"
_REMEDY = f"run {GENERATE} again (with --import if the dataset was imported); it replaces missing and corrupt shards"


def read_dataset(path: str | Path) -> Dataset:
    """The content of dataset.json in the dataset directory `path`.

    Raises DatasetNotFoundError, or FormatVersionError if the format is newer than this code reads.
    """
    file = as_path(path) / DATASET_FILE
    if not file.is_file():
        raise DatasetNotFoundError(f"no dataset at {path} ({DATASET_FILE} is missing): generate it with {GENERATE}")
    return Dataset.from_json(file.read_bytes(), file)


def load(path: str | Path, split: str, rows: int | None = None) -> pa.Table:
    """A split, or its first `rows` rows, as a table with the columns tokens, list<uint16 or uint32>; answer_start,
    answer_length and answer_depth, list<int32>; and traces, list<int32>, and solution and kind, string, if the dataset
    has them.

    tokens is a fixed_size_list if all rows of the task have one length. Rows padded on the left begin with the id of
    `<pad>`, the last entry of the vocabulary.

    Raises DatasetNotFoundError, FormatVersionError, SplitNotFoundError, NotEnoughRowsError,
    ShardMissingError or ShardCorruptError.
    """
    dataset = read_dataset(path)
    wanted = _wanted(path, dataset, split, rows)
    return pa.concat_tables(_tables(as_path(path), dataset, split, wanted))


def read_rows(path: str | Path, split: str, rows: int | None = None) -> Rows:
    """A split, or its first `rows` rows, as NumPy arrays, without solutions but with kinds if there are any; raises
    the errors of `load`.

    Peak memory is the result plus one or two shards; traces, and all columns if rows differ in length, take twice their
    size.
    """
    dataset = read_dataset(path)
    return _rows(as_path(path), dataset, split, _wanted(path, dataset, split, rows))


def stream(path: str | Path, split: str, block_tokens: int = BLOCK_TOKENS) -> Blocks:
    """A split in blocks of consecutive shards, each block about `block_tokens` tokens and at least one shard.

    Raises the errors of `load`, those about a shard when its block is read; the first shard's footer is read at once.
    """
    path, dataset = as_path(path), read_dataset(path)
    _wanted(path, dataset, split, None)
    shards = dataset.splits[split].shards
    each = max(1, block_tokens // _tokens(shard_path(path, split, 0)))
    # Blocks get nearly equal sizes: a short last block could lack rows for a level of the curriculum.
    count = -(-len(shards) // each)
    edges = [len(shards) * i // count for i in range(count + 1)]
    blocks = [range(start, end) for start, end in pairwise(edges)]
    sizes = tuple(sum(shards[number].rows for number in block) for block in blocks)
    return Blocks(sizes, lambda block: _rows(path, dataset, split, sizes[block], blocks[block]))


def read_range(path: str | Path, split: str, start: int, rows: int) -> Rows:
    """Rows start..start + rows - 1 of a split, as of `read_rows`, from the shards that hold them."""
    path, dataset = as_path(path), read_dataset(path)
    _wanted(path, dataset, split, start + rows)
    ends = list(accumulate(shard.rows for shard in dataset.splits[split].shards))
    first, last = bisect_right(ends, start), bisect_left(ends, start + rows)
    before = ends[first - 1] if first else 0
    return _rows(path, dataset, split, start + rows - before, range(first, last + 1))[start - before :]


def _rows(path: Path, dataset: Dataset, split: str, rows: int, shards: range | None = None) -> Rows:
    kinds: list[npt.NDArray[np.object_]] = []
    traces: list[pa.Table] = []

    def lists(table: pa.Table) -> pa.Table:
        if TRACES in table.column_names:
            traces.append(table.select([TRACES]))
        if KIND in table.column_names:
            # one Python string for all rows of a kind
            kinds.append(table.column(KIND).combine_chunks().dictionary_encode().to_numpy(zero_copy_only=False))
        return table.select(COLUMNS)

    tables = map(lists, _tables(path, dataset, split, rows, shards))
    first = next(tables)
    fixed = pa.types.is_fixed_size_list(first.schema.field("tokens").type)
    read = (_arrays if fixed else _ragged)(chain([first], tables), rows)
    return Rows(
        **read,
        pad=pad_id(dataset.vocabulary),
        kind=np.concatenate(kinds) if kinds else None,
        traces=_ragged(traces, rows)[TRACES] if traces else None,
    )


def _tokens(file: Path) -> int:
    """Tokens in a shard, according to its Parquet footer. A label of a trace counts as two, by its bytes."""
    if not file.is_file():
        raise ShardMissingError(f"shard {file} is missing: {_REMEDY}")
    content = file.read_bytes()  # read here, so that only Parquet errors count as corruption
    try:
        footer = pq.read_metadata(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:  # as in read_table
        raise ShardCorruptError(f"shard {file}: {error}; {_REMEDY}") from error
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    weights = {"tokens": 1, TRACES: 2}
    return sum(column.num_values * weights.get(column.path_in_schema.split(".")[0], 0) for column in columns)


def _wanted(path: str | Path, dataset: Dataset, split: str, rows: int | None) -> int:
    """The number of rows to read. Raises SplitNotFoundError, or NotEnoughRowsError if `rows` is not in 1..available."""
    if split not in dataset.splits:
        there = ", ".join(sorted(dataset.splits)) or "none"
        raise SplitNotFoundError(f"no split {split!r} in {path} (its splits: {there}): generate it with {GENERATE}")
    available = dataset.splits[split].rows
    if rows is not None and not 1 <= rows <= available:
        raise NotEnoughRowsError(
            f"rows must be in 1..{available}, as split {split!r} of {path} has {available} rows, got {rows}: "
            f"request fewer, or generate more with {GENERATE}"
        )
    return available if rows is None else rows


def _tables(path: Path, dataset: Dataset, split: str, rows: int, shards: range | None = None) -> Iterator[pa.Table]:
    """The first `rows` rows of the given shards (None: all), one table per shard."""
    first: pa.Schema | None = None
    listed = dataset.splits[split].shards
    for number in range(len(listed)) if shards is None else shards:
        if rows == 0:
            return
        file = shard_path(path, split, number)
        table = _read_shard(file, listed[number], len(dataset.vocabulary))
        first = first or table.schema
        if not table.schema.equals(first):
            raise ShardCorruptError(f"shard {file} has other column types than the first shard: {_REMEDY}")
        table = table.slice(0, rows)
        rows -= table.num_rows
        yield table


def _read_shard(file: Path, shard: Shard, vocabulary_size: int) -> pa.Table:
    if not file.is_file():
        raise ShardMissingError(f"shard {file} is missing: {_REMEDY}")
    content = file.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != shard.sha256:
        raise ShardCorruptError(f"shard {file} has sha256 {checksum}, dataset.json says {shard.sha256}: {_REMEDY}")
    try:
        return read_table(content, shard.rows, vocabulary_size)
    except ValueError as error:
        raise ShardCorruptError(f"shard {file}: {error}; {_REMEDY}") from error


def _arrays(tables: Iterable[pa.Table], rows: int) -> dict[str, npt.NDArray[Any]]:
    """Each column as an array [rows, length]; all lists of a column must have one length."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    done = 0
    for table in tables:
        for name, column in zip(table.column_names, table.columns, strict=True):
            flat = column.combine_chunks().flatten().to_numpy()
            part = flat.reshape(len(column), -1)
            if name not in arrays:
                arrays[name] = np.empty((rows, part.shape[1]), dtype=part.dtype)
            arrays[name][done : done + len(part)] = part
        done += table.num_rows
    return arrays


def _ragged(tables: Iterable[pa.Table], rows: int) -> dict[str, Ragged]:
    """Each column as Ragged, with int64 offsets, as Arrow's int32 offsets end at 2^31 values."""
    table = pa.concat_tables(tables)
    return {
        name: Ragged.of(
            np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]),
            np.concatenate([chunk.value_lengths().to_numpy() for chunk in column.chunks]),
        )
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
