"""Functions on states, which are trees: nested tuples and NamedTuples of tensors.

The first dimension of each tensor is the batch, or 1 if all rows share it. None has no tensors and stays None, as in a
Span without pads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sleepmodel.mixers.base import FAR


def map_tensors(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """The tree of function(leaf, *the same leaf of each other tree)."""
    if tree is None:
        return None
    if isinstance(tree, Tensor):
        return function(tree, *others)
    return _like(tree, [map_tensors(function, *parts) for parts in zip(tree, *others, strict=True)])


def named_tensors(tree: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, leaf) for each leaf, in order. A name is the path of fields and positions: "state.states.0.k"."""
    if tree is None:
        return
    if isinstance(tree, Tensor):
        yield prefix, tree
        return
    for name, part in zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True):
        yield from named_tensors(part, f"{prefix}.{name}")


def select_rows(tree: Any, rows: Tensor) -> Any:
    """The tree with only these rows (int64 indices) of every leaf."""
    return map_tensors(lambda leaf: leaf if len(leaf) == 1 else leaf.index_select(0, rows), tree)


def merge_rows(tree: Any, part: Any, rows: Tensor | None) -> Any:
    """`tree` with `part` in place of these rows; None is all of them.

    If one of them has fewer tokens, it is padded on the left: positions with FAR, everything else with zeros.
    """
    if rows is None:
        return part

    def merge(leaf: Tensor, new: Tensor) -> Tensor:
        shape = [max(sizes) for sizes in zip(leaf.shape[1:], new.shape[1:], strict=True)]
        leaf, new = _fill_left(leaf, shape), _fill_left(new, shape)
        whole = leaf if len(leaf) > 1 else leaf.expand(batch, *shape)
        return whole.index_copy(0, rows, new.to(leaf.dtype).expand(len(rows), *shape))

    batch = max(len(leaf) for _, leaf in named_tensors(tree, ""))
    return map_tensors(merge, tree, part)


def _fill_left(leaf: Tensor, shape: list[int]) -> Tensor:
    missing = [side for size, wanted in zip(leaf.shape[:0:-1], shape[::-1], strict=True) for side in (wanted - size, 0)]
    return F.pad(leaf, missing, value=0 if leaf.is_floating_point() else FAR) if any(missing) else leaf


def _like(tree: Any, parts: list[Any]) -> Any:
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
