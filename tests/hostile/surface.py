"""A place where something from outside is read, and what it may do with damaged input."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import scaled

SECONDS = 10.0  # of computing, that no input may take
LONGEST = 4000  # characters of a message: it names a value, it does not print a file
WRONG_JSON = r"must|give|Expecting|Extra data|Unterminated|Invalid|decode|nested|JSON|digits"


@dataclass(frozen=True)
class Surface:
    """valid: contents that are read; read: gets a content and a directory of its own, and asserts that what it has
    read is right; refusals: all that it may raise; says: a pattern that stands in each message."""

    valid: Callable[[Path], tuple[bytes, ...]]
    read: Callable[[bytes, Path], None]
    refusals: tuple[type[Exception], ...]
    says: str

    def check(self, content: bytes, place: Path) -> bool:
        """Whether it was read; AssertionError, or whatever came out of the depths, where it was not refused well."""
        begin = time.process_time()
        try:
            self.read(content, place)
        except self.refusals as error:
            assert re.search(self.says, str(error), re.DOTALL), f"says too little: {error}"
            assert len(str(error)) < LONGEST, f"says too much: {error!s:.500}"
            return False
        finally:
            seconds = time.process_time() - begin
            assert seconds < scaled(SECONDS), f"took {seconds:.0f} s"
        return True
