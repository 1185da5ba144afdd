"""Checksummed safetensors files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

SUM = "sha256"  # of everything else in a safetensors file


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a safetensors file with `facts`, strings by name, and a checksum of all that it holds; it appears whole
    or not at all. Raises OSError where it cannot be written."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as fresh:
        save_file(tensors, fresh, {**facts, SUM: _checksum(tensors, facts)})


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The facts and tensors of a safetensors file, on the CPU.

    Raises ValueError where it is no such file, was cut, or has a checksum that is not its own: that guards against
    accidents, not against forgers. A file of other tools, without any fact, has none to check.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            facts, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, AttributeError) as error:  # AttributeError: a number type that torch lacks
        raise ValueError(f"{path}: not a whole safetensors file ({error}); take another copy of it") from error
    foreign = facts in ({}, {"format": "pt"})
    if not foreign and facts.pop(SUM, "") != _checksum(tensors, facts):
        raise ValueError(f"{path}: changed since it was written (its {SUM} differs); take another copy of it")
    return facts, tensors


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, whose file takes the place of `path` in the end, and goes where there was an error.

    As datagen.files has it; a registered model takes this package with it, and nothing else.
    """
    from safetensors import SafetensorError

    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield fresh
        fresh.replace(path)
    except (OSError, SafetensorError) as error:  # the latter is safetensors' form of the former
        raise OSError(
            f"{path} cannot be written ({error}); what stood there is as it was: make room, and run the same again"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor], facts: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        if tensors[name].numel():
            digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
