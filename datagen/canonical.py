"""The one text of a value, and the fingerprint that names it."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint_of(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a value's JSON; the order of keys does not count."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
