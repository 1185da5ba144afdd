"""Typed JSON files: what writes one and what reads it name its type once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from datagen.files import replacing

T = TypeVar("T")


@dataclass(frozen=True)
class Artifact(Generic[T]):
    """The file `name` of a directory, on a disk or in an object store, and the type of its content: a dataclass, or
    lists and dicts of them. remedy: what to do where the file is missing or holds something else."""

    name: str
    content: type[T]
    remedy: str = "delete the directory of the stage that writes it, and run the same command again"

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.content)

    def save(self, directory: Path, value: T) -> None:
        """Write the file; it appears whole or not at all. Raises ValueError where `value` is of another type."""
        fields = self._adapter.dump_python(value, mode="json", warnings="error")
        with replacing(directory / self.name) as temporary:
            # pydantic's own JSON turns nan, which a loss may be, into null
            temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")

    def load(self, directory: Path) -> T:
        """What `save` wrote. Raises FileNotFoundError, or ValueError where the content is of another type."""
        path = directory / self.name
        try:
            return self._adapter.validate_json(path.read_bytes(), strict=True, extra="forbid")
        except FileNotFoundError:
            raise FileNotFoundError(f"{path} is missing: {self.remedy}") from None
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "content"
            raise ValueError(
                f"{path} is not what this version of the code writes ({field}: {first['msg']}): {self.remedy}"
            ) from error
