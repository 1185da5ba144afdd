"""Trees of small tensors that are made on the CPU and move to a device in one copy, for which the host does not wait.

A tree is nested tuples and NamedTuples of tensors; other values in it stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNMENT = 8  # bytes, of an int64
T = TypeVar("T")


def shape_of(tree: Any) -> Hashable:
    """The tree with the shape and dtype of each tensor in its place."""
    return cast(Hashable, _mapped(lambda leaf: (leaf.shape, leaf.dtype), tree))


def moved(tree: T, device: torch.device) -> T:
    """The tree with its tensors on a device."""
    return tree if device.type == "cpu" else unpacked(tree, packed_on(tree, device))


def packed_on(tree: Any, device: torch.device) -> Tensor:
    """`packed`, on a device."""
    data = packed(tree)
    return (data.pin_memory() if device.type == "cuda" else data).to(device, non_blocking=True)


def packed(tree: Any) -> Tensor:
    """The bytes of all tensors, uint8 [n]; n depends on `shape_of` alone."""
    leaves = (leaf.reshape(-1).view(torch.uint8) for leaf in _tensors(tree))
    return torch.cat([F.pad(leaf, (0, -len(leaf) % ALIGNMENT)) for leaf in leaves])


def unpacked(tree: T, data: Tensor) -> T:
    """The tree with views of `data`, which `packed` returned for a tree of equal shape, in place of its tensors."""
    parts = iter(data.split([leaf.nbytes + -leaf.nbytes % ALIGNMENT for leaf in _tensors(tree)]))
    views = _mapped(lambda leaf: next(parts)[: leaf.nbytes].view(leaf.dtype).view(leaf.shape), tree)
    return cast(T, views)


def _tensors(tree: Any) -> list[Tensor]:
    found = list[Tensor]()
    _mapped(found.append, tree)
    return found


def _mapped(function: Callable[[Tensor], Any], tree: Any) -> Any:
    if isinstance(tree, tuple):
        parts = [_mapped(function, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return function(tree) if isinstance(tree, Tensor) else tree
