"""Checkpoints, on a disk or in a store: which are whole, which is the last, and who wrote it.

A checkpoint is a directory to which each worker adds its files and worker-<rank>.json with their checksums, which a
store may show before them. It is whole when every worker's list is there and every listed file is as listed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from datagen.artifact import Artifact
from datagen.files import sha256
from datagen.storage import remove_tree
from sleepmodel.config import Scale

KEPT = 2  # whole checkpoints of a run: the last, and the one before should the last be torn

log = logging.getLogger(__name__)


class IncompleteCheckpointError(ValueError):
    """A checkpoint that is not whole."""


@dataclass(frozen=True)
class Manifest:
    """What a worker has written by a step, at what scale: files by their path in the checkpoint, with SHA-256."""

    step: int
    workers: int
    zero_stage: int
    files: dict[str, str]


@dataclass(frozen=True)
class SavedCheckpoint:
    """A whole checkpoint: its directory, the steps done by then, and by what workers it was written."""

    path: Path
    step: int
    workers: int
    zero_stage: int


def write_manifest(directory: Path, rank: int, step: int, scale: Scale) -> None:
    """List a worker's files in `directory`, all of which it has written, with their checksums."""
    files = {str(path.relative_to(directory)): sha256(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    _manifest(rank).save(directory, Manifest(step, scale.workers, scale.zero_stage, files))


def read(directory: Path) -> SavedCheckpoint:
    """What lies in a checkpoint's directory. Raises IncompleteCheckpointError, which names the file."""
    first = _read_manifest(directory, 0)
    for rank in range(first.workers):
        for name, expected in _read_manifest(directory, rank).files.items():
            try:
                found = sha256(directory / name)
            except FileNotFoundError:
                raise IncompleteCheckpointError(f"{name} is missing") from None
            if found != expected:
                raise IncompleteCheckpointError(f"{name} has another checksum than when it was written")
    return SavedCheckpoint(directory, first.step, first.workers, first.zero_stage)


def latest(checkpoints: Path) -> SavedCheckpoint | None:
    """The last whole checkpoint in a directory of them, None where there is none; a warning names each torn one."""
    whole = _whole(checkpoints)
    return whole[-1] if whole else None


def prune(checkpoints: Path) -> SavedCheckpoint | None:
    """As `latest`, and remove the torn ones and all but the last `KEPT` whole ones.

    Only where nobody writes: to a reader a checkpoint that is being written is a torn one.
    """
    whole = _whole(checkpoints)[-KEPT:]
    for path in _directories(checkpoints):
        if path not in [saved.path for saved in whole]:
            remove_tree(path)
    return whole[-1] if whole else None


def check_resumable(saved: SavedCheckpoint, scale: Scale) -> None:
    """Raise ValueError where workers of this scale cannot go on from a checkpoint. Under ZeRO 0 any number of them can;
    beyond, DeepSpeed's files hold a partition for each worker, and it cannot repartition Muon's momentum."""
    if saved.zero_stage == scale.zero_stage and (scale.zero_stage == 0 or saved.workers == scale.workers):
        return
    was = f"{saved.workers} workers with zero_stage = {saved.zero_stage}"
    wanted = f"{scale.workers} workers with zero_stage = {scale.zero_stage}"
    raise ValueError(
        f"{saved.path}: was written by {was}, and {wanted} cannot go on from it: set scale.workers and "
        "scale.zero_stage as they were (with zero_stage = 0 the number of workers is free), or delete this run's "
        "checkpoints to begin anew"
    )


def _whole(checkpoints: Path) -> list[SavedCheckpoint]:
    found = []
    for path in _directories(checkpoints):
        try:
            found.append(read(path))
        except IncompleteCheckpointError as error:
            log.warning("%s is torn and not used, the checkpoint before it is: %s", path, error)
    return sorted(found, key=lambda saved: (saved.step, saved.path.name))


def _directories(checkpoints: Path) -> list[Path]:
    found = (path for path in checkpoints.glob("checkpoint_*") if path.is_dir())
    return sorted(found, key=lambda path: path.name)


def _manifest(rank: int) -> Artifact[Manifest]:
    return Artifact(f"worker-{rank}.json", Manifest, remedy=f"worker {rank} did not finish writing it")


def _read_manifest(directory: Path, rank: int) -> Manifest:
    try:
        return _manifest(rank).load(directory)
    except (FileNotFoundError, ValueError) as error:
        raise IncompleteCheckpointError(str(error)) from None
