"""A stand-in for a CUDA graph on a CPU: the operations of a capture, on the same memory and with the same numbers.

As on a GPU, a capture changes nothing; what Python decides or holds as a number is fixed in it; and nothing may be read
by the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.sleepmodel.accelerator import WAITING


class RecordedGraph:
    """Stands for torch.cuda.CUDAGraph."""

    made = 0  # captures of the test

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, out in self.calls:
            for old, new in zip(_tensors(out), _tensors(function(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():  # neither a view nor changed in place
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.before = graph, list[tuple[Tensor, Tensor]]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        if name in WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for place, argument in enumerate(function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                changed = args[place] if place < len(args) else kwargs.get(argument.name)
                self.before += [(tensor, tensor.clone()) for tensor in _tensors(changed)]
        out = function(*args, **kwargs)
        self.graph.calls.append((function, args, kwargs, out))
        return out


@contextlib.contextmanager
def recorded(graph: RecordedGraph) -> Iterator[None]:
    """Stands for torch.cuda.graph."""
    with _Recorder(graph) as recorder:
        yield
    RecordedGraph.made += 1
    with torch.no_grad():
        for tensor, value in reversed(recorder.before):
            tensor.copy_(value)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@pytest.fixture
def recorded_graphs(monkeypatch: pytest.MonkeyPatch) -> type[RecordedGraph]:
    """torch.cuda's graphs are recorded ones."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(RecordedGraph, "made", 0)
    return RecordedGraph
