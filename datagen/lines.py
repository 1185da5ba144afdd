"""Lines of files to import: read without holding a long one in memory, and named where they cannot be used."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from typing import IO

NAMED_LINES = 10  # the most that an error lists
LONGEST_LINE = 2**24  # bytes; a text of 128k tokens has half a million
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"  # how such files begin, whatever their names


def named(malformed: Sequence[str]) -> str:
    """The first of the lines, and how many there are more."""
    more = [f"and {len(malformed) - NAMED_LINES} more"] if len(malformed) > NAMED_LINES else []
    return "\n".join([*malformed[:NAMED_LINES], *more])


def whole_lines(text: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Lines that end with a line feed: str.splitlines also splits at characters that JSON allows inside a string.

    A line of LONGEST_LINE bytes or more is cut there, so that it is refused without being held in memory.
    """
    while line := text.readline(LONGEST_LINE):
        rest = line
        while len(rest) == LONGEST_LINE and not rest.endswith(b"\n"):
            rest = text.readline(LONGEST_LINE)
        yield line
