"""Files become a dataset that depends on their contents alone; what cannot be used is named, and nothing is written."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Text, check_task, read_rows
from datagen.errors import MalformedLinesError
from datagen.lines import LONGEST_LINE
from datagen.reader import read_dataset, read_range
from datagen.schema import fingerprint
from datagen.task import SPLITS
from datagen.text.importing import import_text, plan_import
from datagen.text.options import LOSSES, Options
from datagen.text.sources import Source, find_sources, parts_of, read_lines
from pipelines.reporting.questions import kinds_of
from tests.datagen.text.importing import imported, planned, write_records

RECORDS = [{"prompt": f"What is {i}? ", "completion": str(i), "kind": "even" if i % 2 else "odd"} for i in range(60)]


def texts_of(path: Path) -> dict[str, list[str]]:
    """The documents of each split of a dataset of bytes."""
    return {
        split: [bytes(tokens).decode() for tokens in read_rows(path, split).tokens.tolist()]
        for split in read_dataset(path).splits
    }


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@given(st.lists(st.binary(max_size=30), max_size=12), st.integers(1, 70))
def test_each_line_belongs_to_one_part_however_large_these_are(lines: list[bytes], size: int) -> None:
    content = b"\n".join(line.replace(b"\n", b" ") for line in lines)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        source = Source(Path(file.name), file.name, "records", False, len(content), "")
        read = [list(read_lines(span)) for part in parts_of([source], size) for span in part]
    assert b"".join(b"".join(part) for part in read) == content.removeprefix(b"\xef\xbb\xbf")
    assert all(line.endswith(b"\n") for part in read for line in part) or not content.endswith(b"\n")


def test_a_dataset_does_not_depend_on_names_places_and_order(tmp_path: Path) -> None:
    a = write_records(tmp_path / "a.jsonl", RECORDS[:20])
    (tmp_path / "b.md").write_text("# Title\n\nA text.\n" * 40)
    one = imported([a, tmp_path / "b.md"], tmp_path / "one")
    folder = tmp_path / "folder/deep"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "b.md", folder / "0.txt")
    shutil.copy(a, folder / "a.jsonl")
    shutil.copy(a, folder / "twice.jsonl")
    two = imported([tmp_path / "folder"], tmp_path / "two")
    assert one.name == two.name and files_of(one) == files_of(two)
    other = Options(max_tokens=64)
    assert plan_import([a], tmp_path, options=other).path != plan_import([a], tmp_path).path


def test_small_parts_hold_the_same_documents_as_one(tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", RECORDS)
    whole, parts = imported([file], tmp_path / "one"), imported([file], tmp_path / "two", part_bytes=100)
    assert texts_of(whole) == texts_of(parts)
    assert sum(len(split.shards) for split in read_dataset(parts).splits.values()) > 10


def test_splits_are_disjoint_and_stay_when_files_are_added(tmp_path: Path) -> None:
    first = write_records(tmp_path / "a.jsonl", RECORDS[:40])
    more = write_records(tmp_path / "b.jsonl", [*RECORDS[20:], {"text": "Mine.", "split": "test"}])
    before, after = texts_of(imported([first], tmp_path)), texts_of(imported([first, more], tmp_path))
    assert set(before) == set(SPLITS)
    for split in SPLITS:
        assert set(before[split]) <= set(after[split])
        assert not set(after[split]) & {text for other in SPLITS if other != split for text in after[other]}
    assert "Mine." in after["test"]
    assert set(texts_of(imported([first], tmp_path, Options(split="validation")))) == {"validation"}


def test_all_completions_of_a_prompt_lie_in_one_split(tmp_path: Path) -> None:
    asked = [{"prompt": f"What is {i}? ", "completion": said * 9} for i in range(40) for said in "abcd"]
    for loss in LOSSES:
        found = texts_of(imported([write_records(tmp_path / "a.jsonl", asked)], tmp_path, Options(loss=loss)))
        prompts = {split: {text.partition("?")[0] for text in texts} for split, texts in found.items()}
        assert set(prompts) == set(SPLITS) and sum(map(len, prompts.values())) == 40


def test_kinds_and_depths_are_kept_for_the_evaluation(tmp_path: Path) -> None:
    records = [{**record, "depth": i} for i, record in enumerate(RECORDS)]
    del records[0]["kind"]
    path = imported([write_records(tmp_path / "a.jsonl", records)], tmp_path, Options(split="test"))
    rows = read_rows(path, "test")
    assert rows.answer_depth.values.tolist() == list(range(60))  # type: ignore[union-attr]
    assert kinds_of(rows, read_dataset(path)) == ["no kind", *(record["kind"] for record in RECORDS[1:])]
    assert rows[np.array([3, 1])].kind.tolist() == [RECORDS[3]["kind"], RECORDS[1]["kind"]]  # type: ignore[union-attr]
    plain = imported([write_records(tmp_path / "b.jsonl", [{"text": "a b"}])], tmp_path, Options(split="test"))
    assert kinds_of(read_rows(plain, "test"), read_dataset(plain)) == []


def test_gzip_parquet_bom_and_crlf_read_as_the_plain_file(tmp_path: Path) -> None:
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (tmp_path / "plain.jsonl").write_text(lines)
    (tmp_path / "zipped.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.replace("\n", "\r\n").encode())
    pq.write_table(pa.Table.from_pylist(RECORDS), tmp_path / "table", row_group_size=7)
    found = [
        texts_of(imported([file], tmp_path / "root", part_bytes=500)) for file in tmp_path.glob("*") if file.is_file()
    ]
    assert len(found) == 4 and all(each == found[0] for each in found)
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(texts_of(imported([tmp_path / "text.txt"], tmp_path / "root")).values()) == [["one\ntwo\n"]]


LINE = json.dumps(RECORDS[0]).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", LINE + b"{\n" + LINE, "a.jsonl, line 2: "),
        ("a.jsonl", LINE + b'{"prompt": "a"}\n' + LINE, "a.jsonl, line 2: must have prompt and completion"),
        ("a.jsonl", LINE + b'{"text": "\xff"}\n', "a.jsonl, line 2: 'utf-8' codec"),
        ("a.jsonl", LINE + b"[" * 100_000, "a.jsonl, line 2: the JSON is nested too deeply"),
        ("a.jsonl", LINE + b'{"text": "' + b"x" * LONGEST_LINE + b'"}\n' + LINE, "line 2: must be shorter"),
        ("a.txt", b"fine\nbad \xff\nfine again\n", "a.txt, line 2: 'utf-8' codec"),
    ],
)
def test_lines_that_cannot_be_used_are_named_or_left_out(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    # parts of 64 bytes: lines have the numbers that they have in the file
    found = planned([tmp_path / name], tmp_path / "root", Options(split="test"), part_bytes=max(64, len(content) // 9))
    with pytest.raises(MalformedLinesError, match=f"(?s)1 of [1-9] lines cannot be used.*--skip-malformed.*{why}"):
        found.write()
    assert not (found.path / "dataset.json").exists()
    dataset, skipped = found.write(skip_malformed=True)
    assert dataset.config["skipped"] == 1 and len(skipped) == 1 and why in skipped[0]
    assert all(
        text in ("What is 0? 0", "fine\nfine again\n", "fine\n", "fine again\n")
        for text in texts_of(found.path)["test"]
    )


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", b"", "a.jsonl, line 1: the file holds no text"),
        ("a.txt", b" \n\n", "a.txt, line 1: the file holds no text"),
        ("a.jsonl", b"{}\n", "hold no document.*\n.*line 1"),
        ("a.jsonl.gz", gzip.compress(LINE * 999)[:-30], "a.jsonl.gz, line [0-9]+: the file is damaged"),
        ("a.jsonl.gz", gzip.compress(LINE * 999)[:40] + b"\0" * 40, "a.jsonl.gz, line [0-9]+: the file is damaged"),
        ("a.parquet", b"PAR1 and no more", "a.parquet is not a whole Parquet file"),
    ],
)
def test_a_file_without_a_document_and_a_damaged_one_are_refused(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MalformedLinesError, match=f"(?s){why}"):
        imported([tmp_path / name], tmp_path / "root", skip_malformed=True)
    assert not list(tmp_path.rglob("dataset.json"))


def test_what_cannot_be_imported_is_refused_before_work(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(
        MalformedLinesError, match="has the columns question; must have prompt and completion, messages"
    ):
        plan_import([tmp_path / "a.parquet"], tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/picture.png").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"folder .* has no \.jsonl, \.md"):
        plan_import([tmp_path / "folder"], tmp_path)
    with pytest.raises(ValueError, match=r"'.*none' does not exist: give files or folders"):
        plan_import([tmp_path / "none"], tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a.txt is plain text, which has no completions: import it with --loss all"):
        plan_import([tmp_path / "a.txt"], tmp_path, options=Options(loss="completions"))
    with pytest.raises(ValueError, match="max_tokens = 1: must be an integer of at least 2"):
        Options(max_tokens=1)
    assert not (tmp_path / "text").exists()


def test_files_with_the_same_content_count_once(tmp_path: Path) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text("the same")
    assert len(find_sources([tmp_path, tmp_path / "a.txt"])) == 1


def test_what_is_damaged_or_missing_is_written_again_and_the_rest_is_kept(ray_cluster: str, tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", RECORDS)
    found = planned([file], tmp_path, Options(), part_bytes=1000)
    (found.part(1) / "part.json").unlink()  # as of a run that was ended
    kept = found.part(0) / "part.json"
    os.utime(kept, ns=(1, 1))
    assert len(found.parts) > 3
    found.write()
    sound = files_of(found.path)
    assert kept.stat().st_mtime_ns == 1
    (found.path / "train/part-00002.parquet").write_bytes(b"damaged")
    (found.path / "test/part-00000.parquet").unlink()
    (found.path / "dataset.json").unlink()
    found.write()
    assert files_of(found.path) == sound
    assert texts_of(found.path) == texts_of(imported([file], tmp_path / "whole"))


def test_ray_writes_what_one_process_writes(ray_cluster: str, tmp_path: Path) -> None:
    file = write_records(tmp_path / "a.jsonl", RECORDS)
    assert files_of(import_text([file], tmp_path / "ray")) == files_of(imported([file], tmp_path / "here"))


def test_the_task_has_the_rows_that_were_imported(tmp_path: Path) -> None:
    records = [{**record, "split": split} for split in SPLITS for record in RECORDS[:20]]
    path = imported([write_records(tmp_path / "a.jsonl", records)], tmp_path, part_bytes=400)
    task = Text(str(path))
    check_task(task)
    rows = task.sample("test", 3, 0, 17)
    assert rows.tokens.tolist() == read_rows(path, "test").tokens.tolist()[:17]
    assert rows.kind is not None and rows.kind.tolist() == [record["kind"] for record in RECORDS[:17]]
    for start, count in ((0, 1), (7, 9), (19, 1), (3, 17)):
        there = read_range(path, "train", start, count)
        assert there.tokens.tolist() == read_rows(path, "train").tokens.tolist()[start : start + count]
    with pytest.raises(ValueError, match=r"test has 20 of the 21 rows .* set data.test_rows=20 or fewer"):
        task.check_rows("test", 21)
    moved = Path(shutil.copytree(path, tmp_path / "moved"))
    assert fingerprint(Text(str(moved)), 0) == fingerprint(task, 0)
    other = imported([write_records(tmp_path / "b.jsonl", records[1:])], tmp_path)
    assert fingerprint(Text(str(other)), 0) != fingerprint(task, 0)
    for wrong in (tmp_path, ""):
        with pytest.raises(ValueError, match=r"no dataset at|path = ''"):
            Text(str(wrong) if wrong else "")
