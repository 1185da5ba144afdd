"""Checkpoints of a run, on a disk or in an object store: finds the latest complete one and removes old ones.

A checkpoint is a directory to which each worker adds its files and a manifest, worker-<rank>.json, with their
checksums. An object store may show the manifest before the files. A checkpoint is complete when the manifests of all
workers exist and every file matches its checksum.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from datagen.artifact import Artifact
from datagen.files import sha256
from datagen.storage import remove_tree
from sleepmodel.config.training import Scale

KEPT = 2  # complete checkpoints of a run: the latest, and the one before in case the latest gets damaged

log = logging.getLogger(__name__)


class IncompleteCheckpointError(ValueError):
    """A checkpoint lacks a file, or a file does not match its checksum."""


@dataclass(frozen=True)
class Manifest:
    """What a worker wrote at a step. files: path in the checkpoint -> SHA-256."""

    step: int
    workers: int
    zero_stage: int
    files: dict[str, str]


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint. step: number of finished steps; workers, zero_stage: of the run that wrote it."""

    path: Path
    step: int
    workers: int
    zero_stage: int


def write_manifest(directory: Path, rank: int, step: int, scale: Scale) -> None:
    """List the files of a worker in `directory`, which it has finished writing, with their checksums."""
    files = {str(path.relative_to(directory)): sha256(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    _manifest(rank).save(directory, Manifest(step, scale.workers, scale.zero_stage, files))


def read(directory: Path) -> SavedCheckpoint:
    """Verify the checkpoint in a directory. Raises IncompleteCheckpointError, which names the file."""
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
    """The latest complete checkpoint in a directory, or None. Logs a warning for each incomplete one."""
    complete = _complete(checkpoints)
    return complete[-1] if complete else None


def prune(checkpoints: Path) -> SavedCheckpoint | None:
    """As `latest`, but first remove the incomplete checkpoints and all complete ones except the latest `KEPT`.

    Call it only while no worker writes, as an unfinished checkpoint looks like an incomplete one.
    """
    complete = _complete(checkpoints)[-KEPT:]
    for path in _directories(checkpoints):
        if path not in [saved.path for saved in complete]:
            remove_tree(path)
    return complete[-1] if complete else None


def check_resumable(saved: SavedCheckpoint, scale: Scale) -> None:
    """Raise ValueError if workers of this scale cannot resume from a checkpoint.

    With ZeRO stage 0 any number of workers can. From stage 1 on, DeepSpeed's files hold one partition per worker, and
    DeepSpeed cannot repartition Muon's momentum.
    """
    if saved.zero_stage == scale.zero_stage and (scale.zero_stage == 0 or saved.workers == scale.workers):
        return
    was = f"{saved.workers} workers with zero_stage = {saved.zero_stage}"
    wanted = f"{scale.workers} workers with zero_stage = {scale.zero_stage}"
    raise ValueError(
        f"{saved.path}: was written by {was}, and {wanted} cannot resume from it: set scale.workers and "
        "scale.zero_stage as they were (with zero_stage = 0 any number of workers can resume), or delete this run's "
        "checkpoints to start again"
    )


def _complete(checkpoints: Path) -> list[SavedCheckpoint]:
    found = []
    for path in _directories(checkpoints):
        try:
            found.append(read(path))
        except IncompleteCheckpointError as error:
            log.warning("%s is incomplete, so an earlier checkpoint is used instead: %s", path, error)
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
