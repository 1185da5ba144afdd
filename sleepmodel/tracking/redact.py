"""Text without the secrets that an address may hold. Standard library only."""

from __future__ import annotations

import re

_USER = re.compile(r"://[^/?#\s'\"]*@")
_PARAMETER = re.compile(r"(?i)([?&;][\w.-]*(?:pass|pwd|secret|token|key|sig|credential)[\w.-]*=)[^&;\s'\"]+")


def redacted(text: object) -> str:
    """`text` with what stands before the @ of an address, and its secret parameters, as ***; for all that is shown."""
    return _PARAMETER.sub(r"\1***", _USER.sub("://***@", str(text)))
