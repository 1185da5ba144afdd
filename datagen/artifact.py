"""Typed JSON files, written and read through one definition."""

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
    """A JSON file that directories, on a disk or in an object store, may hold.

    name: of the file; content: its type, a dataclass or lists and dicts of them; remedy: what to do if the file is
    missing or its content is of another type.
    """

    name: str
    content: type[T]
    remedy: str = "delete the directory of the stage that writes it, and run the same command again"

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        return TypeAdapter(self.content)

    def save(self, directory: Path, value: T) -> None:
        """Write the file atomically. Raises ValueError if `value` is of another type."""
        fields = self._adapter.dump_python(value, mode="json", warnings="error")
        with replacing(directory / self.name) as temporary:
            # pydantic's own JSON turns nan, a possible loss, into null
            temporary.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")

    def load(self, directory: Path) -> T:
        """Read the file. Raises FileNotFoundError, or ValueError if the content is of another type."""
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
