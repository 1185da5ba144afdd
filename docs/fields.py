"""An extension of griffe: lists of fields in docstrings ("name: what it is") become lists in the API reference."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from griffe import Class, Extension, Function, Object

FIELD = re.compile(r"^(\w+(?:, \w+)*)(:|  +)\s*(?=\S)", re.MULTILINE)
INNER = re.compile(r"([.;])\s+(\w+(?:,\s\w+)*):\s+(?=\S)")  # a field behind another one on the same line
RAISES = re.compile(r"(?<=\.)\s+(?=Raises [A-Z]\w+)")


class Fields(Extension):
    """Found by griffe by its base class."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            names = set(obj.members)
            if isinstance(obj, Class | Function):
                names |= {parameter.name for parameter in obj.parameters}
            obj.docstring.value = as_list(obj.docstring.value, names)


def as_list(docstring: str, names: Collection[str] = ()) -> str:
    """The docstring with each line that begins with fields' names and a colon as an item of a list, and so each of
    `names`, followed by a colon, that begins a sentence or follows a semicolon."""

    def own_line(found: re.Match[str]) -> str:
        fields = re.split(r",\s", found[2])
        return f".\n{', '.join(fields)}: " if all(field in names for field in fields) else found[0]

    first, _, rest = INNER.sub(own_line, docstring).partition("\n")
    if not rest:
        return docstring
    lines = []
    listed = False
    for line in rest.split("\n"):
        item = FIELD.sub(lambda found: f"- **{found[1]}**: ", line)
        if item != line and not listed:
            lines.append("")
        listed = item != line or (listed and bool(line.strip()))
        lines.append(item)
    text = "\n".join(lines)
    return first + "\n" + (RAISES.sub("\n\n", text) if "- **" in text else text)
