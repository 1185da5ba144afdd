"""Remove secrets from addresses in text. Uses the standard library alone."""

from __future__ import annotations

import re

# up to the last @, as a password may hold / ? # and quotes; this may hide a host too. A path behind :// has no user
_USER = re.compile(r"://(?!/)\S*@")
_PARAMETER = re.compile(r"(?i)([?&;][\w.-]*(?:pass|pwd|secret|token|key|sig|credential)[\w.-]*=)[^&;\s'\"]+")


def redacted(text: object) -> str:
    """`text` with *** for the user and password of each address and for its secret parameters. Everything that is shown
    or logged must pass through here."""
    return _PARAMETER.sub(r"\1***", _USER.sub("://***@", str(text)))
