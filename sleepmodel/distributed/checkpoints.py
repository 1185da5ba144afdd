"""Checkpoints of a run, on a disk or in an object store: finds the latest complete one and removes old ones.

A checkpoint is a directory to which each worker adds its files and a manifest, worker-<rank>.json, with their
checksums. An object store may show the manifest before the files. A checkpoint is complete when the manifests of all
workers exist and every file matches its checksum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from datagen.artifact import Artifact
from datagen.files import sha256
from datagen.storage import local_copy, remove_tree
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
    """A checkpoint as its manifests describe it. step: number of finished steps; workers, zero_stage: of the run that
    wrote it."""

    path: Path
    step: int
    workers: int
    zero_stage: int


def write_manifest(directory: Path, rank: int, step: int, scale: Scale) -> None:
    """List the files of a worker in `directory`, which it has finished writing, with their checksums."""
    files = {str(path.relative_to(directory)): sha256(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    _manifest(rank).save(directory, Manifest(step, scale.workers, scale.zero_stage, files))


@contextmanager
def opened(saved: SavedCheckpoint) -> Iterator[Path]:
    """Yields a local directory with the files of a checkpoint, after it has verified them: its own, or a download.

    Raises IncompleteCheckpointError, which names the file that is missing or has changed.
    """
    with ExitStack() as held:
        try:
            copy = held.enter_context(local_copy(saved.path))
        except FileNotFoundError:  # in a store, as another process removes it
            raise IncompleteCheckpointError(f"{saved.path}: files are missing") from None
        for rank in range(saved.workers):
            for name, expected in _read_manifest(copy, rank).files.items():
                try:
                    found = sha256(copy / name)
                except FileNotFoundError:
                    raise IncompleteCheckpointError(f"{saved.path}: {name} is missing") from None
                if found != expected:
                    changed = f"{saved.path}: {name} has another checksum than when it was written"
                    raise IncompleteCheckpointError(changed)
        yield copy


def open_latest(checkpoints: Path, held: ExitStack, discard: bool = False) -> tuple[SavedCheckpoint, Path] | None:
    """The latest complete checkpoint in a directory and its local files, which `held` keeps; None if there is none.

    Reads the latest one, and an earlier one only if that is damaged. Logs a warning for each incomplete one.
    discard: remove the first manifest of each damaged one, so that it is not read again and the next `prune` removes
    it. Only while no worker writes, as an unfinished checkpoint looks like a damaged one.
    """
    for saved in reversed(_listed(checkpoints)):
        try:
            return saved, held.enter_context(opened(saved))
        except IncompleteCheckpointError as error:
            _warn(error)
            if discard:  # not the directory, which Ray Train's controller may know and remove later
                (saved.path / _manifest(0).name).unlink(missing_ok=True)
    return None


def latest(checkpoints: Path) -> SavedCheckpoint | None:
    """The latest complete checkpoint in a directory, or None. Reads as `open_latest`."""
    with ExitStack() as held:
        found = open_latest(checkpoints, held)
    return found[0] if found else None


def prune(checkpoints: Path) -> None:
    """Remove the checkpoints in a directory that lack a manifest, and of the others all except the latest `KEPT` + 1.
    It does not read them, so that any of them may turn out to be damaged.

    Call it only while no worker writes, as an unfinished checkpoint looks like an incomplete one.
    """
    listed = _listed(checkpoints)[-(KEPT + 1) :]
    for path in _directories(checkpoints):
        if path not in [saved.path for saved in listed]:
            remove_tree(path)


def check_resumable(checkpoints: Path, scale: Scale) -> None:
    """Raise ValueError if workers of this scale cannot resume from the latest complete checkpoint in a directory.

    With ZeRO stage 0 any number of workers can. From stage 1 on, DeepSpeed's files hold one partition per worker, and
    DeepSpeed cannot repartition Muon's momentum.
    """

    def fits(saved: SavedCheckpoint) -> bool:
        return saved.zero_stage == scale.zero_stage and (scale.zero_stage == 0 or saved.workers == scale.workers)

    # they are read only if one of them does not fit, which may turn out to be damaged and so will not be used
    if all(map(fits, _listed(checkpoints))) or (saved := latest(checkpoints)) is None or fits(saved):
        return
    was = f"{saved.workers} workers with zero_stage = {saved.zero_stage}"
    wanted = f"{scale.workers} workers with zero_stage = {scale.zero_stage}"
    raise ValueError(
        f"{saved.path}: was written by {was}, and {wanted} cannot resume from it: set scale.workers and "
        "scale.zero_stage as they were (with zero_stage = 0 any number of workers can resume), or delete this run's "
        "checkpoints to start again"
    )


def _listed(checkpoints: Path) -> list[SavedCheckpoint]:
    """The checkpoints with the manifests of all workers, the latest last. Logs a warning for each that lacks one."""
    found = []
    for path in _directories(checkpoints):
        try:
            first = _read_manifest(path, 0)
            for rank in range(1, first.workers):
                _read_manifest(path, rank)
            found.append(SavedCheckpoint(path, first.step, first.workers, first.zero_stage))
        except IncompleteCheckpointError as error:
            _warn(error)
    return sorted(found, key=lambda saved: (saved.step, saved.path.name))


def _warn(error: IncompleteCheckpointError) -> None:
    log.warning("%s; this checkpoint is not used, but the one before it, if there is one", error)


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
