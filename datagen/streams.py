"""The standard streams of a program that goes on when nobody reads its output any longer."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class _Discarding(io.FileIO):
    """Drops what cannot be written: the reader of a pipe has ended, a terminal is closed, a log's disk is full."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def open_closed_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed. Otherwise the next file or socket that is opened
    would get its number, and whatever is printed would be written there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def outlive_readers() -> None:
    """From now on, output that cannot be written to stdout or stderr is dropped, and raises nothing."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        raw, unbuffered = _Discarding(number, "w", closefd=False), stream.write_through  # `python -u`
        text = io.TextIOWrapper(
            raw if unbuffered else io.BufferedWriter(raw),
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=unbuffered,
        )
        setattr(sys, name, text)
