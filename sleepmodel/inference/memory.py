"""What a session remembers, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sleepmodel.serialization.tensors import read_tensors, write_tensors

FORMAT, VERSION = "sleepmodel-memory", "2"


@dataclass(frozen=True)
class Memory:
    """What a session knows, apart from its model: resume it anywhere with `Session(model, memory=...)`.

    tensors: by name; right after a sleep under hard eviction almost all of it is fast weights;
    fingerprint: of the model (accounting.fingerprint), without which it means nothing.
    """

    tensors: dict[str, Tensor]
    fingerprint: str

    @property
    def batch_size(self) -> int:
        """Rows."""
        return len(self.tensors["state.filled"])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        write_tensors(Path(path), self.tensors, {"format": FORMAT, "version": VERSION, "model": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """Read a file that `save` wrote. Raises FileNotFoundError where there is none, ValueError where it is damaged,
        was changed since, or is of another kind or version. The sum guards against accidents, not against forgers."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no memory here; give a file that Memory.save wrote")
        facts, tensors = read_tensors(Path(path))
        if facts.get("format") != FORMAT:
            raise ValueError(f"{path}: a safetensors file, but no memory; give a file that Memory.save wrote")
        if facts.get("version") != VERSION:
            version = facts.get("version")
            raise ValueError(
                f"{path}: memory of version {version}, this code reads {VERSION}; use the code that wrote it"
            )
        return cls(tensors, facts.get("model", ""))
