"""An extension of griffe: lists of fields in docstrings ("name: what it is") become lists in the API reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

FIELD = re.compile(r"^(\w+(?:, \w+)*)(:|  +)\s*(?=\S)", re.MULTILINE)


class Fields(Extension):
    """Found by griffe by its base class."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_list(obj.docstring.value)


def as_list(docstring: str) -> str:
    """The docstring with each line that begins with fields' names and a colon as an item of a list."""
    first, _, rest = docstring.partition("\n")
    if not rest:
        return docstring
    lines = []
    listed = False
    for line in rest.split("\n"):
        item = FIELD.sub(lambda found: f"- **{found[1]}**: ", line)
        if item != line and not listed:
            lines.append("")
        listed = item != line or (listed and line.startswith(" "))
        lines.append(item)
    return "\n".join([first, *lines])
