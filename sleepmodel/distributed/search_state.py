"""What Tune knows of a search, saved whole or not at all.

Tune saves its trials, the searcher and the callbacks as separate files, which it copies to the storage in place and in
the background. A search that is killed meanwhile would find half a file, which Tune cannot read, or files of two
moments. Hence each state is first kept as one archive, and a search that goes on begins with the files of the archive.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

from pyarrow.fs import FileSystem
from ray.train._internal.storage import _FilesystemSyncer
from ray.tune import Experiment

from datagen.files import remove_temporaries, replacing
from datagen.storage import local_copy, storage_errors

ARCHIVE = "state.zip"
STATE_FILES = ("*.json", "*.pkl")  # which Tune itself restores

logger = logging.getLogger(__name__)


def keep_state(experiment: Experiment, directory: Path) -> None:
    """Have Tune keep each state of `experiment` in the archive of `directory`, before it copies it to its storage."""
    storage = experiment.storage
    storage.syncer = _KeepState(storage.storage_filesystem, directory / ARCHIVE)


def restore_state(directory: Path, experiment: Path) -> None:
    """Replace the state files in `experiment` by those of the archive in `directory`, if there is one. If it is
    damaged, they stay as Tune copied them."""
    remove_temporaries(directory)
    archive = directory / ARCHIVE
    if not archive.exists():
        return
    try:
        with local_copy(archive) as local, zipfile.ZipFile(local) as files:
            states = {name: files.read(name) for name in files.namelist()}
    except zipfile.BadZipFile as error:
        logger.warning("%s is damaged (%s): the search goes on with the files in %s", archive, error, experiment)
        return
    for name, state in states.items():
        with replacing(experiment / name) as file:
            file.write_bytes(state)


class _KeepState(_FilesystemSyncer):
    """Tune calls `sync_up` each time that it has prepared a state in `local_dir`, and changes no file there before it
    returns."""

    def __init__(self, filesystem: FileSystem, archive: Path) -> None:
        super().__init__(storage_filesystem=filesystem)
        self.archive = archive

    def sync_up(self, local_dir: str, remote_dir: str, exclude: list[str] | None = None) -> bool:
        try:
            with replacing(self.archive) as temporary, zipfile.ZipFile(temporary, "w") as files:
                for pattern in STATE_FILES:
                    for file in Path(local_dir).glob(pattern):
                        files.write(file, file.name)
        except storage_errors() as error:  # as Tune, which goes on and tries again with the next state
            logger.warning("the state of the search could not be saved: %s", error)
            return False  # a copy would be newer than the archive, which a search begins with
        return bool(super().sync_up(local_dir, remote_dir, exclude))
