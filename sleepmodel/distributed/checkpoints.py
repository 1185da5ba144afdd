"""Checkpoints, on a disk or in a store: which are whole, which is the last, and who wrote it.

A checkpoint is a directory to which each worker adds its files and worker-<rank>.json with their checksums, which a
store may show before them. It is whole when every worker's list is there and every listed file is as listed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.storage import remove_tree
from sleepmodel.config import Scale

KEPT = 2  # whole checkpoints of a run: the last, and the one before should the last be torn

log = logging.getLogger(__name__)


class IncompleteCheckpointError(ValueError):
    """A checkpoint that is not whole."""


@dataclass(frozen=True)
class SavedCheckpoint:
    """A whole checkpoint: its directory, the steps done by then, and by what workers it was written."""

    path: Path
    step: int
    workers: int
    zero_stage: int


def write_manifest(directory: Path, rank: int, step: int, scale: Scale) -> None:
    """List a worker's files in `directory`, all of which it has written, with their checksums."""
    files = {str(path.relative_to(directory)): _sha256(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    content = {"step": step, "workers": scale.workers, "zero_stage": scale.zero_stage, "files": files}
    _manifest(directory, rank).write_text(json.dumps(content, indent=2))


def read(directory: Path) -> SavedCheckpoint:
    """What lies in a checkpoint's directory. Raises TornError, with the file and what is wrong with it."""
    first = _read_manifest(directory, 0)
    for rank in range(int(first["workers"])):
        for name, expected in _read_manifest(directory, rank)["files"].items():
            try:
                found = _sha256(directory / name)
            except FileNotFoundError:
                raise IncompleteCheckpointError(f"{name} is missing") from None
            if found != expected:
                raise IncompleteCheckpointError(f"{name} has another checksum than when it was written")
    return SavedCheckpoint(directory, first["step"], first["workers"], first["zero_stage"])


def latest(checkpoints: Path) -> SavedCheckpoint | None:
    """The last whole checkpoint in a directory of them, None where there is none; a warning names each torn one."""
    whole = _whole(checkpoints)
    return whole[-1] if whole else None


def prune(checkpoints: Path) -> SavedCheckpoint | None:
    """As `last`, and remove the torn ones and all but the last `KEPT` whole ones.

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


def _manifest(directory: Path, rank: int) -> Path:
    return directory / f"worker-{rank}.json"


def _read_manifest(directory: Path, rank: int) -> dict[str, Any]:
    path = _manifest(directory, rank)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise IncompleteCheckpointError(f"{path.name} is missing: worker {rank} did not finish writing") from None
    except ValueError as error:
        raise IncompleteCheckpointError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"step", "workers", "zero_stage", "files"}:
        raise IncompleteCheckpointError(f"{path.name} is not what a worker writes")
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
