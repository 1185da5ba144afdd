"""The one JSON form of a config."""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

from datagen.canonical import identifying_fields

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_TYPE_KEY = "$type"  # no field of a dataclass can have this name


def canonical(value: object, where: str) -> JSON:
    """`value` as JSON: a whole float becomes an int, a tuple a list, a dataclass a dict with its name under "$type"
    and its `identifying_fields`.

    Raises ValueError, which begins with `where` and the path of the field, on a value that has no such form.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | str) and type(value) in (int, str):  # an Enum or a NumPy scalar has a type of its own
        return value
    if type(value) is float and math.isfinite(value):
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict) and all(type(key) is str and key != _TYPE_KEY for key in value):
        return {key: canonical(item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        form: dict[str, JSON] = {_TYPE_KEY: type(value).__name__}
        for name, item in identifying_fields(value).items():
            form[name] = canonical(item, f"{where}.{name}")
        return form
    allowed = f"None, bool, int, finite float, str, or a list, tuple, dict (str keys, not {_TYPE_KEY!r}) or dataclass"
    raise ValueError(f"{where} = {value!r}: is a {type(value).__name__}; must be {allowed} of these")
