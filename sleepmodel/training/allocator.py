"""Keep freed memory in the process, as a training step frees and allocates the same megabytes hundreds of times."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # glibc's maximum
_LARGEST_TRIM_THRESHOLD = 2**31 - 1


def keep_freed_memory() -> None:
    """Stop glibc from returning freed tensors to the kernel: the page faults take up to a third of a step on a CPU
    (docs/diary.md). Results do not change. Does nothing with another C library."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_TRIM_THRESHOLD)
