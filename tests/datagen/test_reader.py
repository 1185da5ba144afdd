"""Reading: the rows that were made, and one clear error for each thing that may be wrong on disk."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datagen import Rows, Rule110, generate, load, read_rows, stream
from datagen.errors import (
    DatasetError,
    DatasetNotFoundError,
    FormatVersionError,
    NotEnoughRowsError,
    ShardCorruptError,
    ShardMissingError,
    SplitNotFoundError,
)
from datagen.files import sha256
from datagen.reader import read_dataset, read_range
from datagen.schema import shard_path
from datagen.shard_size import SHARD_ROWS
from datagen.shards import read_table, to_table

TASK = Rule110(cells=12, states=3, steps=5)
ROWS = 2 * SHARD_ROWS + 11


@pytest.fixture(scope="module")
def dataset(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate(TASK, "test", 20, 1, root)
    return generate(TASK, "train", ROWS, 1, root)


@pytest.fixture
def copy(dataset: Path, tmp_path: Path) -> Path:
    """A dataset that a test may break."""
    return Path(shutil.copytree(dataset, tmp_path / "copy"))


@pytest.fixture
def copy_of_test(dataset: Path, tmp_path: Path) -> Path:
    """The small split alone, which a test may break."""
    return Path(shutil.copytree(dataset, tmp_path / "copy", ignore=shutil.ignore_patterns("train")))


@pytest.mark.parametrize("wanted", [None, 1, SHARD_ROWS, SHARD_ROWS + 1, ROWS])
def test_reads_what_the_task_made(dataset: Path, wanted: int | None) -> None:
    shards = [TASK.sample("train", 1, shard, SHARD_ROWS) for shard in range(3)]
    read, table = read_rows(dataset, "train", wanted), load(dataset, "train", wanted)
    n = wanted or ROWS
    assert len(read) == table.num_rows == n
    for name, values in read.columns().items():
        expected = np.concatenate([shard.columns()[name] for shard in shards])[:n]
        assert values.dtype == expected.dtype
        assert (values == expected).all()
        assert table.column(name)[n - 1].as_py() == expected[-1].tolist()


def test_blocks_are_the_rows_in_their_order(dataset: Path) -> None:
    """A block has no more whole shards than its tokens allow, but one, and they are of nearly one size."""
    whole = read_rows(dataset, "train")
    for tokens, sizes in (
        (1, (SHARD_ROWS, SHARD_ROWS, 11)),
        (2 * SHARD_ROWS * TASK.row_length, (SHARD_ROWS, SHARD_ROWS + 11)),
    ):
        blocks = stream(dataset, "train", tokens)
        assert blocks.sizes == sizes and len(blocks) == ROWS
        read = Rows.joined([blocks.read(block) for block in range(len(sizes))])
        assert all(np.array_equal(values, whole.columns()[name]) for name, values in read.columns().items())
    assert stream(dataset, "train").sizes == (ROWS,)


@pytest.mark.parametrize("place", range(8, 400, 29))
def test_a_damaged_footer_is_a_damaged_shard(copy_of_test: Path, place: int) -> None:
    file = shard_path(copy_of_test, "test", 0)
    content = bytearray(file.read_bytes())
    content[-place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ShardCorruptError):
        stream(copy_of_test, "test").read(0)


def test_a_broken_shard_is_named_when_its_block_is_read(copy: Path) -> None:
    last, first = (shard_path(copy, "train", number) for number in (2, 0))
    last.write_bytes(last.read_bytes()[:-1])
    blocks = stream(copy, "train", 1)
    assert len(blocks.read(0)) == SHARD_ROWS
    with pytest.raises(ShardCorruptError, match=re.escape(str(last))):
        blocks.read(2)
    first.write_bytes(b"no Parquet")
    with pytest.raises(ShardCorruptError, match=re.escape(str(first))):
        stream(copy, "train")
    first.unlink()
    with pytest.raises(ShardMissingError, match=re.escape(str(first))):
        stream(copy, "train")


def test_table_types(dataset: Path) -> None:
    types = {field.name: field.type for field in load(str(dataset), "test").schema}
    assert pa.types.is_fixed_size_list(types["tokens"])
    assert types["tokens"].list_size == TASK.row_length
    assert types["tokens"].value_type == pa.uint16()
    assert {types[f"answer_{part}"].value_type for part in ("start", "length", "depth")} == {pa.int32()}


def test_read_dataset_rebuilds_the_task(dataset: Path) -> None:
    described = read_dataset(dataset)
    assert described.task == TASK.name
    assert Rule110(**described.config) == TASK
    assert described.vocabulary == TASK.vocabulary
    assert {split: entry.rows for split, entry in described.splits.items()} == {"test": 20, "train": ROWS}


TRACED = Rule110(cells=6, states=1, steps=3, shallowest=0, labels="all", stated=False, traced=True)


@pytest.fixture(scope="module")
def traced(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    generate(TRACED, "test", 8, 1, root)
    return generate(TRACED, "train", SHARD_ROWS + 9, 1, root)


def test_traces_are_read_as_they_were_made(traced: Path) -> None:
    """By every reader, over the border of two shards, for rows with no trace too."""
    shards = [TRACED.sample("train", 1, shard, SHARD_ROWS) for shard in range(2)]
    expected = Rows.joined([shards[0], shards[1][:9]])
    assert expected.traces is not None and 0 in expected.trace_counts
    block = stream(traced, "train").read(0)
    for read in (read_rows(traced, "train"), block):
        assert read.traces is not None and read.traces.values.dtype == np.int32
        assert (read.traces.values == expected.traces.values).all()
        assert (read.traces.offsets == expected.traces.offsets).all()
    few = read_range(traced, "train", SHARD_ROWS - 2, 4)
    assert few.traces is not None
    assert few.traces.tolist() == expected[SHARD_ROWS - 2 : SHARD_ROWS + 2].traces.tolist()  # type: ignore[union-attr]
    element = pa.field("element", pa.int32(), nullable=False)
    assert load(traced, "train").schema.field("traces").type.equals(pa.list_(element))
    assert "traces" not in load(traced, "test").column_names and read_rows(traced, "test").traces is None


def test_a_block_is_smaller_where_rows_have_traces(traced: Path) -> None:
    rows = TRACED.sample("train", 1, 0, SHARD_ROWS)
    assert rows.traces is not None
    two_shards = 2 * (int(rows.lengths.sum()) + 2 * len(rows.traces.values))
    assert len(stream(traced, "train", two_shards * 11 // 10).sizes) == 1
    assert len(stream(traced, "train", two_shards * 9 // 10).sizes) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda told: [[5, *row[1:]] if row else row for row in told],
            r"has labels -1..5 in its traces, must be -1..3",
        ),
        (
            lambda told: [[-2, *row[1:]] if row else row for row in told],
            r"has labels -2..1 in its traces, must be -1..3",
        ),
        (lambda told: [row[1:] for row in told], "has traces that are not a multiple of their row's tokens"),
    ],
)
def test_a_shard_with_other_traces_is_refused(
    change: Callable[[list[list[int]]], list[list[int]]], message: str
) -> None:
    table = to_table(TRACED.sample("train", 1, 0, 20), len(TRACED.vocabulary))
    broken, content = _column(table, "traces", change(table.column("traces").to_pylist())), pa.BufferOutputStream()
    pq.write_table(broken, content, write_page_checksum=True)
    with pytest.raises(ValueError, match=message):
        read_table(content.getvalue().to_pybytes(), 20, len(TRACED.vocabulary))


def check_error(error: type[DatasetError], path: Path, split: str, *parts: str, rows: int | None = None) -> None:
    """Both readers raise `error`, and its message holds every part."""
    for read in (load, read_rows):
        with pytest.raises(error) as raised:
            read(path, split, rows)
        for part in parts:
            assert part in str(raised.value)


def test_no_dataset(tmp_path: Path) -> None:
    check_error(
        DatasetNotFoundError, tmp_path / "none", "train", str(tmp_path / "none"), "python pipelines/generate.py"
    )


def test_no_such_split(dataset: Path) -> None:
    check_error(
        SplitNotFoundError, dataset, "validation", "'validation'", "test, train", "python pipelines/generate.py"
    )


@pytest.mark.parametrize("rows", [-1, 0, ROWS + 1])
def test_rows_that_are_not_there(dataset: Path, rows: int) -> None:
    check_error(NotEnoughRowsError, dataset, "train", f"1..{ROWS}", f"got {rows}", rows=rows)


def test_missing_shard(copy: Path) -> None:
    missing = shard_path(copy, "train", 1)
    missing.unlink()
    check_error(ShardMissingError, copy, "train", str(missing), "python pipelines/generate.py")
    assert len(read_rows(copy, "train", SHARD_ROWS)) == SHARD_ROWS  # the rows before it can be read


def test_one_wrong_byte(copy: Path) -> None:
    damaged = shard_path(copy, "train", 2)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    check_error(ShardCorruptError, copy, "train", str(damaged), "sha256", "python pipelines/generate.py")


def _column(table: pa.Table, name: str, values: object) -> pa.Table:
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, type=table.schema.field(name).type))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns("answer_depth"), "must have"),
        (lambda table: table.slice(0, 19), "has 19 rows, must have 20"),
        (
            lambda table: _column(table, "tokens", [[7] * TASK.row_length] * 20),
            "token 7, must be below the vocabulary size 3",
        ),
        (lambda table: _column(table, "answer_start", [[0, 1, 400]] * 20), "row 0 has an answer outside its tokens"),
        (
            lambda table: _column(table, "answer_length", [[1, 1, 1]] * 19 + [[1, 0, 1]]),
            "row 19 has an answer outside its tokens",
        ),
        (lambda table: _column(table, "answer_depth", [[1, 1, 1]] * 19 + [[1, 1]]), "different lengths"),
    ],
)
def test_a_listed_shard_that_is_none_is_refused(
    copy: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    """Its checksum is right, its rows are not: what wrote both was not this code."""
    file = shard_path(copy, "test", 0)
    pq.write_table(change(pq.read_table(file)), file)
    about = json.loads((copy / "dataset.json").read_text())
    about["splits"]["test"]["shards"][0]["sha256"] = sha256(file)
    (copy / "dataset.json").write_text(json.dumps(about))
    check_error(ShardCorruptError, copy, "test", str(file), message, "python pipelines/generate.py")


def test_a_total_that_its_shards_do_not_have_is_refused(copy: Path) -> None:
    about = json.loads((copy / "dataset.json").read_text())
    about["splits"]["test"]["rows"] = 21
    (copy / "dataset.json").write_text(json.dumps(about))
    check_error(
        DatasetNotFoundError, copy, "test", "dataset.json", "rows of test = 21: must be 20, as many as its shards have"
    )


def test_newer_format(copy: Path) -> None:
    file = copy / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "format_version": 99, "something": "new"}))
    check_error(FormatVersionError, copy, "train", str(file), "99")


def test_errors_can_be_caught_as_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
        read_rows(tmp_path, "train")
