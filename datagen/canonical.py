"""Canonical JSON, fingerprints of values, and fields that older fingerprints do not know."""

from __future__ import annotations

import hashlib
import json
from dataclasses import field, fields
from typing import Any, TypeVar

T = TypeVar("T")
_LATER = "added later"


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint_of(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def added_later(default: T) -> T:
    """The default of a dataclass field that was added after values without it had been hashed and saved."""
    return field(default=default, metadata={_LATER: True})


def make_floats(config: Any) -> None:
    """Make floats of the integers in a frozen dataclass's fields that are typed `float`, or `float | None`, so that 1
    and 1.0 are one config with one JSON."""
    for each in fields(config):
        value = getattr(config, each.name)
        if each.type in ("float", "float | None") and type(value) is int:
            object.__setattr__(config, each.name, float(value))


def identifying_fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass instance by name, without those that were `added_later` and have their default.

    What is hashed or saved has these fields, so that a new option changes no identity of what does not use it.
    """
    found = {}
    for each in fields(value):
        item = getattr(value, each.name)
        if _LATER not in each.metadata or item != each.default:
            found[each.name] = item
    return found
