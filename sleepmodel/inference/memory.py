"""The memory of a session, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from datagen.storage import as_path, check_reachable, in_store, local_copy
from sleepmodel.serialization.tensors import read_tensors, write_tensors

FORMAT, VERSION = "sleepmodel-memory", "2"


@dataclass(frozen=True)
class Memory:
    """Everything that a session knows, except its model and its settings (N, a halting rule), which are given again.
    `Session(model, memory=...)` resumes the session anywhere.

    tensors: by name; right after a sleep under hard eviction, almost all bytes are fast weights.
    fingerprint: of the model that wrote it (accounting.fingerprint), the only one that can use it.
    """

    tensors: dict[str, Tensor]
    fingerprint: str

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return len(self.tensors["state.filled"])

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically; the path may be in an object store. Raises FileNotFoundError if its
        directory does not exist, another OSError if it cannot be written."""
        path = writable_path(path)
        write_tensors(path, self.tensors, {"format": FORMAT, "version": VERSION, "model": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """Read a file that `save` wrote.

        Raises FileNotFoundError if there is none, another OSError if it cannot be read, ValueError if the file is
        damaged, was changed, or is of another kind or version. Its checksum detects accidents, not forgery.
        """
        path = as_path(path)
        check_reachable(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no memory here; give a file that Memory.save wrote")
        with local_copy(path) as file:
            facts, tensors = read_tensors(file)
        if facts.get("format") != FORMAT:
            raise ValueError(f"{path}: a safetensors file, but not a memory; give a file that Memory.save wrote")
        if facts.get("version") != VERSION:
            version = facts.get("version")
            raise ValueError(
                f"{path}: memory of version {version}, but this code reads {VERSION}; use the code that wrote it"
            )
        return cls(tensors, facts.get("model", ""))


def writable_path(path: str | Path) -> Path:
    """Where a memory can be saved. Raises FileNotFoundError if its directory does not exist, another OSError if its
    object store cannot be used."""
    path = as_path(path)
    check_reachable(path)
    if not in_store(path) and not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no directory {path.parent}; create it, or choose another one")
    return path
