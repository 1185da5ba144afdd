"""Read GGUF files, llama.cpp's format: their metadata, and tensors of the types F32, F16, Q4_1 and Q8_0.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datagen.checks import require_whole

Array = npt.NDArray[np.float32]
VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
# a tensor is a row of such blocks; those of the quantised types have 32 weights
_F32, _F16, _Q4_1, _Q8_0 = 0, 1, 3, 8
_BLOCKS: dict[int, np.dtype[Any]] = {
    _F32: np.dtype("<f4"),
    _F16: np.dtype("<f2"),
    _Q4_1: np.dtype([("scale", "<f2"), ("least", "<f2"), ("pairs", "u1", 16)]),
    _Q8_0: np.dtype([("scale", "<f2"), ("weights", "i1", 32)]),
}


class _Cursor:
    """A position in the bytes of a file, from which little-endian values are read one after the other."""

    def __init__(self, content: npt.NDArray[np.uint8]) -> None:
        self.content, self.position = content, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack(f"<{form}", self._bytes(struct.calcsize(f"<{form}")))
        return value

    def text(self) -> str:
        return self._bytes(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _LIST:
            inner, length = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(length)]
        return self.number(_SCALARS[kind])

    def _bytes(self, length: int) -> bytes:
        start, self.position = self.position, self.position + length
        if self.position > len(self.content):
            raise ValueError("ends too early")
        return self.content[start : self.position].tobytes()


def read_gguf(path: Path, *further: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """The metadata, and the tensors in float32. further: the other parts of a file that was cut into pieces, in order.
    Raises ValueError if the file is damaged or has other types."""
    try:
        parts = [np.memmap(part, np.uint8, "r") for part in (path, *further)]
        return _read(_Cursor(np.concatenate(parts) if further else parts[0]))
    except (ValueError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a GGUF file that is read here ({error}); take another copy of it") from error


def _read(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, Array]]:
    magic, version = cursor.number("4s"), cursor.number("I")
    if magic != b"GGUF" or version not in VERSIONS:
        raise ValueError(
            f"begins with {magic!r}, version {version}: must be GGUF, version {VERSIONS[0]} or {VERSIONS[1]}"
        )
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    facts = {}
    for _ in range(entries):
        name = cursor.text()
        facts[name] = cursor.value(cursor.number("I"))
    listed = []
    for _ in range(tensors):
        name, dimensions = cursor.text(), cursor.number("I")
        shape = [cursor.number("Q") for _ in range(dimensions)]
        listed.append((name, shape[::-1], cursor.number("I"), cursor.number("Q")))
    alignment = facts.get("general.alignment", 32)
    require_whole("general.alignment", alignment, 1)
    begin = -(-cursor.position // alignment) * alignment
    return facts, {
        name: _tensor(cursor.content[begin + offset :], name, shape, kind) for name, shape, kind, offset in listed
    }


def _tensor(content: npt.NDArray[np.uint8], name: str, shape: list[int], kind: int) -> Array:
    if kind not in _BLOCKS:
        raise ValueError(
            f"{name} has type {kind}: must be one of {', '.join(map(str, _BLOCKS))} (F32, F16, Q4_1, Q8_0)"
        )
    block, weights = _BLOCKS[kind], math.prod(shape)
    size = weights // (32 if kind in (_Q4_1, _Q8_0) else 1) * block.itemsize
    if size > len(content):
        raise ValueError(f"{name} is cut off")
    with np.errstate(invalid="ignore", over="ignore"):  # of damaged scales
        found = _dequantised(np.frombuffer(content[:size].tobytes(), block), kind)
    if not np.isfinite(found).all():
        raise ValueError(f"{name} has values that are not finite")
    return found.reshape(shape)


def _dequantised(blocks: npt.NDArray[Any], kind: int) -> Array:
    if kind in (_F32, _F16):
        return blocks.astype(np.float32)
    scale = blocks["scale"].astype(np.float32)[:, None]
    if kind == _Q8_0:
        return scale * blocks["weights"]
    # the first 16 weights are the low halves of the bytes, the other 16 the high ones
    weights = np.concatenate((blocks["pairs"] & 15, blocks["pairs"] >> 4), 1)
    return scale * weights + blocks["least"].astype(np.float32)[:, None]
