"""The format: columns, dataset.json and the fingerprint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import Rows, Rule110
from datagen.errors import DatasetNotFoundError, FormatVersionError
from datagen.schema import FORMAT_VERSION, Dataset, Shard, Split, columns, fingerprint
from datagen.shards import ensure_shard, to_table
from datagen.task import MAX_SEED

counts = st.integers(1, 2**31)
shards = st.builds(Shard, rows=counts, sha256=st.text("0123456789abcdef", min_size=64, max_size=64))
splits = st.lists(shards, min_size=1, max_size=3).map(lambda part: Split(sum(s.rows for s in part), tuple(part)))
datasets = st.builds(
    Dataset,
    format_version=st.integers(1, FORMAT_VERSION),
    task=st.text(),
    config=st.dictionaries(st.text(), st.one_of(st.integers(), st.booleans(), st.none(), st.text())),
    vocabulary=st.lists(st.text(), min_size=1).map(tuple),
    seed=st.integers(0, MAX_SEED),
    splits=st.dictionaries(st.sampled_from(["train", "validation", "test"]), splits),
)


@given(datasets)
def test_dataset_json_round_trip(dataset: Dataset) -> None:
    assert Dataset.from_json(dataset.to_json(), Path("dataset.json")) == dataset


@given(datasets)
def test_newer_format_is_refused(dataset: Dataset) -> None:
    newer = replace(dataset, format_version=FORMAT_VERSION + 1)
    with pytest.raises(FormatVersionError, match=rf"version {FORMAT_VERSION + 1}.*up to {FORMAT_VERSION}"):
        Dataset.from_json(newer.to_json(), Path("dataset.json"))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"format_version": 1}', '{"format_version": "1"}'])
def test_what_is_no_dataset_json_is_refused(text: str) -> None:
    with pytest.raises(DatasetNotFoundError, match=r"some/dataset\.json is not"):
        Dataset.from_json(text, Path("some/dataset.json"))


@pytest.mark.parametrize(
    ("vocabulary_size", "token"), [(3, pa.uint16()), (65_536, pa.uint16()), (65_537, pa.uint32()), (2**31, pa.uint32())]
)
@settings(deadline=None)  # Arrow's first conversion imports pandas
@given(st.data())
def test_table_holds_the_rows(vocabulary_size: int, token: pa.DataType, data: st.DataObject) -> None:
    n, width, answers = (data.draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(counts))

    def answer() -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
        return rng.integers(0, 2**31, (n, answers), dtype=np.int32)

    tokens = rng.integers(0, vocabulary_size, (n, width)).astype(token.to_pandas_dtype())
    rows = Rows(tokens, answer(), answer(), answer())
    table = to_table(rows, vocabulary_size)

    assert table.schema.field("tokens").type.equals(pa.list_(pa.field("element", token, nullable=False), width))
    assert {field.name: field.type.value_type for field in table.schema} == {
        "tokens": token,
        "answer_start": pa.int32(),
        "answer_length": pa.int32(),
        "answer_depth": pa.int32(),
    }
    assert table.to_pydict() == {name: values.tolist() for name, values in rows.columns().items()}


def test_table_of_ragged_rows() -> None:
    rows = Rows.of([[1, 2, 3], [4, 5]], [[0, 2], [1]], [[2, 1], [1]], [[3, 4], [3]])
    table = to_table(rows, vocabulary_size=10)
    assert table.schema.field("tokens").type.equals(pa.list_(pa.field("element", pa.uint16(), nullable=False)))
    assert table.to_pydict() == {name: column.tolist() for name, column in rows.columns().items()}


def test_shards_of_rows_of_one_length_keep_their_bytes(tmp_path: Path) -> None:
    """A shard holds what Arrow makes of the plain lists."""
    task = Rule110()
    lists = {name: column.tolist() for name, column in task.sample("train", 3, 0, 500).columns().items()}
    schema = columns(len(task.vocabulary), task.row_length)
    pq.write_table(pa.table(lists, schema=schema), tmp_path / "plain", compression="zstd", write_page_checksum=True)
    ensure_shard(tmp_path / "shard", task, "train", 3, 0, 500, listed=None)
    assert (tmp_path / "shard").read_bytes() == (tmp_path / "plain").read_bytes()


def test_fingerprint_moves_with_everything_that_shapes_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = [fingerprint(Rule110(), 0), fingerprint(Rule110(steps=31), 0), fingerprint(Rule110(), 1)]
    monkeypatch.setattr("datagen.schema.FORMAT_VERSION", FORMAT_VERSION + 1)
    prints.append(fingerprint(Rule110(), 0))
    monkeypatch.setattr(Rule110, "vocabulary", ("0", "1", "!"))
    prints.append(fingerprint(Rule110(), 0))
    assert len(set(prints)) == len(prints)


def test_fingerprint_stays() -> None:
    """A new fingerprint for the same data would make everyone's datasets again."""
    assert fingerprint(Rule110(), 0) == "dfdc6388ed9e9b5c"
