"""Files and datasets in a store, by a real S3 server: the same bytes as on a disk, and nothing that is not whole."""

import sys
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from datagen import Rule110, generate, load, storage
from datagen.errors import ShardCorruptError, ShardMissingError
from datagen.files import replacing, write_texts
from datagen.schema import DATASET_FILE, shard_path
from datagen.storage import as_path, check_reachable, local_copy, publishing, remove_tree

TASK = Rule110(cells=8, states=1, steps=2)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_dataset_is_the_same_bytes_and_lost_shards_are_found_and_made_again(
    ray_cluster: str, store: Path, tmp_path: Path
) -> None:
    for split in ("train", "test"):
        there, here = (generate(TASK, split, 40, 3, root) for root in (str(store), tmp_path))
    whole = contents(here)
    assert contents(there) == whole and len(whole) == 3
    assert load(there, "test") == load(str(there), "test") == load(here, "test")
    shard_path(there, "test", 0).write_bytes(b"x" + shard_path(here, "test", 0).read_bytes()[1:])
    shard_path(there, "train", 0).unlink()
    with pytest.raises(ShardCorruptError, match=r"shard s3://runs/.*part-00000\.parquet has sha256"):
        load(there, "test")
    with pytest.raises(ShardMissingError, match=r"shard s3://runs/.*is missing"):
        load(there, "train")
    for split in ("train", "test"):
        generate(TASK, split, 40, 3, store)
    assert contents(there) == whole


def test_a_file_is_replaced_whole_or_not_at_all(store: Path) -> None:
    file = store / "a b" / DATASET_FILE
    with replacing(file) as temporary:
        temporary.write_text("one")
        assert not file.exists()
    with pytest.raises(KeyboardInterrupt), replacing(file) as temporary:
        temporary.write_text("tw")
        raise KeyboardInterrupt
    assert contents(store) == {f"a b/{DATASET_FILE}": b"one"}
    nowhere = as_path("s3://nobody/x")
    with pytest.raises(OSError, match=r"s3://nobody/x cannot be written .*not exist"), replacing(nowhere) as temporary:
        temporary.touch()


def test_files_that_are_not_among_the_new_ones_are_removed(store: Path, tmp_path: Path) -> None:
    for directory in (store / "model", tmp_path):
        write_texts(directory, {"a": "1", "b": "2", "notes": "3"}, ())
        write_texts(directory, {"c": "ü", "a": "4"}, ("a", "b", "c", "d"))
        assert contents(directory) == {"a": b"4", "c": "ü".encode(), "notes": b"3"}


def test_the_last_file_of_a_directory_is_sent_last(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that sees it sees the others; where the sender dies before, it is not there."""
    sent, put = [], storage.put

    def dies_before_the_last(file: Path, path: Path) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(path.name)
        put(file, path)

    def fill() -> None:
        with publishing(store / "model", last="history") as fresh:
            (fresh / "inner").mkdir()
            for name in ("history", "weights", "inner/z"):
                (fresh / name).write_text(name)

    monkeypatch.setattr(storage, "put", dies_before_the_last)
    with pytest.raises(KeyboardInterrupt):
        fill()
    assert contents(store) == {"model/inner/z": b"inner/z", "model/weights": b"weights"}
    monkeypatch.undo()
    fill()
    with local_copy(store / "model") as copy:
        assert contents(copy) == {name: name.encode() for name in ("history", "weights", "inner/z")}
    assert not copy.exists()
    with local_copy(store / "model" / "weights") as copy:
        assert copy.name == "weights" and copy.read_text() == "weights"
    remove_tree(store / "model")
    assert contents(store) == {}
    with (
        pytest.raises(FileNotFoundError, match=r"s3://runs/.*/model does not exist"),
        local_copy(store / "model"),
    ):
        pass


def test_others_are_seen_at_once(store: Path) -> None:
    """What another process writes or removes is not hidden by what was listed before."""
    other = S3FileSystem(skip_instance_cache=True)
    assert not list(store.glob("*")) and not (store / "stop").exists()
    other.pipe_file(f"{store}/stop", b"")
    assert (store / "stop").exists() and [path.name for path in store.glob("*")] == ["stop"]
    other.rm_file(f"{store}/stop")
    assert not (store / "stop").exists() and not list(store.glob("*"))


@pytest.mark.parametrize(
    ("root", "said"),
    [
        ("gs://bucket/x", "must be a directory, or s3://bucket/prefix"),
        ("s3://", "must be a directory, or s3://bucket/prefix"),
        ("s3://bucket/x?endpoint=y", "must be a directory, or s3://bucket/prefix"),
        ("s3://me:secret@bucket/x", r"^s3://\*\*\*: must not contain credentials: set AWS_ACCESS_KEY_ID"),
        ("s3://me:sec/ret@bucket/x", r"^s3://\*\*\*: must not contain credentials"),
    ],
)
def test_what_is_no_root_is_refused(root: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_path(root)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(ValueError, match=r"'s3://bucket/x': needs s3fs: install this package with its extra `s3`"):
        as_path("s3://bucket/x")


@pytest.mark.parametrize(
    ("root", "variable", "value", "error", "said"),
    [
        (
            "s3://nobody/x",
            "AWS_DEFAULT_REGION",
            "us-east-1",
            FileNotFoundError,
            "bucket 'nobody' does not exist: create it",
        ),
        (
            "s3://runs/x",
            "AWS_ACCESS_KEY_ID",
            "stranger",
            PermissionError,
            "the object store denied access .*AWS_ACCESS_KEY_ID",
        ),
        (
            "s3://runs/x",
            "AWS_SECRET_ACCESS_KEY",
            "wrong",
            PermissionError,
            "the object store denied access .*signature",
        ),
    ],
)
def test_a_store_that_cannot_be_used_is_said_so(
    root: str,
    variable: str,
    value: str,
    error: type[Exception],
    said: str,
    server: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(error, match=said):
            check_reachable(as_path(root))
    finally:
        S3FileSystem.clear_instance_cache()


def test_a_home_is_found_wherever_a_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/a") == as_path(Path("~/a")) == tmp_path / "a" and as_path("a~/~b") == Path("a~/~b")
    with pytest.raises(ValueError, match=r"'~nobody-of-this-name/a': .*write the whole path"):
        as_path("~nobody-of-this-name/a")
