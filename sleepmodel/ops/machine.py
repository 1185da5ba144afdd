"""This machine: its processor, and the user's cache directory, where what was compiled or measured on it is kept."""

from __future__ import annotations

import os
from pathlib import Path

# what decides how fast torch computes, in float32 and in bfloat16
VECTOR_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "sve", "bf16", "i8mm")


def processor() -> list[str]:
    """The lines of /proc/cpuinfo that tell one kind of processor from another, sorted, each once."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return sorted({line for line in lines if line.lower().startswith(("model", "flags", "feat"))})


def vector_flags() -> list[str]:
    """Those of VECTOR_FLAGS that the processor has."""
    words = {word for line in processor() for word in line.split()}
    return [flag for flag in VECTOR_FLAGS if flag in words]


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sleepmodel"
