"""safetensors files with a checksum, written atomically."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datagen.files import replacing
from sleepmodel.serialization.available_memory import available_memory

GIB = 2**30
SUM = "sha256"  # the metadata key of the checksum of everything else in the file


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a safetensors file atomically, with `facts` and a checksum of everything as its metadata. Raises OSError if
    it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as fresh:
        fresh.touch()
        mode = fresh.stat().st_mode  # by the umask; safetensors puts a file of mode 0600 in its place
        try:
            save_file(tensors, fresh, {**facts, SUM: _checksum(tensors, facts)})
        except SafetensorError as error:  # safetensors' form of an OSError
            raise OSError(str(error)) from error
        fresh.chmod(mode)


def read_tensors(path: Path, foreign: bool = False) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file, on the CPU. foreign: a file without a checksum is read,
    whatever its metadata.

    Raises ValueError if it is not a safetensors file, is truncated, or does not match its checksum, which detects
    accidents, not forgery; OSError if it cannot be read. A file that another tool wrote, without metadata, has no
    checksum to verify.
    """
    with _opened(path) as file:
        names = list(file.keys())
        facts, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    unsigned = facts in ({}, {"format": "pt"}) or (foreign and SUM not in facts)
    if not unsigned and facts.pop(SUM, "") != _checksum(tensors, facts):
        raise ValueError(f"{path}: changed since it was written (its {SUM} differs); take another copy of it")
    return facts, tensors


def require_memory(files: Sequence[Path], size: int | None = None, more: int = 0) -> None:
    """Raise ValueError if the tensors of these safetensors files do not fit this machine's memory. Raises the errors of
    `read_tensors`.

    size: bytes of each number, for tensors that will be converted; None: as in the files. more: bytes of other tensors
    that must fit too.
    """
    needed, free = more, available_memory()
    for path in files:
        with _opened(path) as file:
            for name in list(file.keys()):
                tensor = file.get_slice(name)
                needed += math.prod(tensor.get_shape()) * (size or _itemsize(tensor.get_dtype()))
    if free is not None and needed > free:
        raise ValueError(
            f"{files[0].parent}: the weights take {needed / GIB:.2f} GiB, but {free / GIB:.2f} GiB are free here; free "
            "some memory, raise the container's limit, or use a larger machine"
        )


def _itemsize(dtype: str) -> int:
    """Bytes of a number of a dtype of safetensors, such as "BF16" or "F8_E4M3"."""
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) // 8 if bits else 1  # "BOOL"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open safetensors file. Raises the errors of `read_tensors`."""
    from safetensors import SafetensorError, safe_open

    path.open("rb").close()  # raises the OSError, such as of a file without permission, which safe_open obscures
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, AttributeError) as error:  # AttributeError: a dtype that torch lacks
        raise ValueError(f"{path}: not a whole safetensors file ({error}); take another copy of it") from error


def tensors_sha256(files: Sequence[Path]) -> str:
    """A checksum of all tensors in safetensors files, in hex: the same however they are spread over files, which may
    also differ in their metadata. Raises ValueError if a file is not whole."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(path)) for path in files]
        file_of = {name: file for file in opened for name in list(file.keys())}
        for name in sorted(file_of):
            _add(digest, name, file_of[name].get_tensor(name))
    return digest.hexdigest()


def _checksum(tensors: dict[str, Tensor], facts: dict[str, str]) -> str:
    # with spaces, unlike canonical_json: this text is a part of the file format
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
    if tensor.numel():
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
