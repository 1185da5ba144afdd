"""The archive of a search's state: Tune's copy is never newer, and it serves where the archive is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem
from ray.tune import Experiment

from sleepmodel.distributed.search_state import ARCHIVE, keep_state, restore_state

STATE = "experiment_state-1.json"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Where Tune prepares a state, where it copies it to, and the directory of the archive."""
    prepared, output = tmp_path / "prepared", tmp_path / "output"
    prepared.mkdir()
    return prepared, output / "search", output


def saved(text: str, places: tuple[Path, Path, Path]) -> bool:
    """Save a state as Tune does. Whether Tune is told that it has begun to copy."""
    prepared, copy, output = places
    (prepared / STATE).write_text(text)
    experiment = Experiment(
        copy.name, lambda config: None, storage_path=str(output), storage_filesystem=LocalFileSystem()
    )
    keep_state(experiment, output)
    syncer = experiment.storage.syncer
    begun = syncer.sync_up(str(prepared), str(copy))
    syncer.wait()
    return bool(begun)


def test_a_state_that_the_archive_lacks_is_not_copied(
    places: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, copy, output = places
    assert saved("first", places)
    (output / ARCHIVE).unlink()
    (output / ARCHIVE).mkdir()  # so that it cannot be replaced
    with caplog.at_level(logging.WARNING):
        assert not saved("second", places)
    assert (copy / STATE).read_text() == "first"
    assert f"the state of the search could not be saved: {output / ARCHIVE}" in caplog.text


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_archive_is_named_and_not_used(
    damage: str, places: tuple[Path, Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    _, copy, output = places
    assert saved("first", places)
    archive = output / ARCHIVE
    (copy / STATE).write_text("half a")
    restore_state(output, copy)
    assert (copy / STATE).read_text() == "first"

    content = archive.read_bytes()
    archive.write_bytes(content[:-10] if damage == "cut" else content.replace(b"first", b"fisrt"))
    (copy / STATE).write_text("copied")
    with caplog.at_level(logging.WARNING):
        restore_state(output, copy)
    assert (copy / STATE).read_text() == "copied"
    assert f"{archive} is damaged" in caplog.text and str(copy) in caplog.text
