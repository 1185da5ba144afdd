"""gated_delta.cpp as torch operators: the gated delta rule on a CPU in float32.

The machine's g++ compiles the kernel for the machine's CPU at its first use, in a second or two, into the user's cache.
Where that fails (no g++, no AVX2, a read-only home) `available` is false, and `gated_delta_rule` runs in torch.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.flop_counter import register_flop_formula

from sleepmodel.ops.machine import cache_directory, processor

# Not torch.utils.cpp_extension.load: it needs ninja, takes 135 ms a start (this: 0.5 ms) and no less for the first
# build (1.1 s), keeps one library for all CPUs that share a home, and waits forever for a builder that was killed.
# A TORCH_LIBRARY in C++ would save 5 of a call's 85 us, and build for 7 s.
SOURCE = Path(__file__).with_name("gated_delta.cpp")
COMPILE = ("g++", "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-c")
# with no library of its own, not even OpenMP's, the kernel finds torch's: two pools of threads would fight for cores
LINK = ("g++", "-shared", "-nodefaultlibs")
Shape = tuple[int, ...]


class _View(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), *((x, ctypes.c_int64) for x in ("batch", "token", "head")))


class _Sizes(ctypes.Structure):
    _fields_ = tuple((x, ctypes.c_int64) for x in ("batch", "heads", "tokens", "key", "value", "chunk", "threads"))


def available() -> bool:
    """Whether the kernel is there; the first call compiles it."""
    return _library() is not None


def rule(
    q: Tensor | None, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, start: Tensor, chunk: int
) -> tuple[Tensor | None, Tensor]:
    """`gated_delta_rule` in chunks of `chunk` tokens, all tensors float32; without q, o is None.

    Raises ValueError for a tensor of another shape or dtype.
    """
    batch, _, heads, key = k.shape
    value, per_token = v.shape[-1], k.shape[:3]
    tensors = {"q": q, "k": k, "v": v, "log_decay": g, "beta": beta, "initial_state": start}
    shapes = (k.shape, k.shape, (*per_token, value), per_token, per_token, (batch, heads, key, value))
    for (name, x), shape in zip(tensors.items(), shapes, strict=True):
        # the kernel does not check: it would read past the end of a smaller tensor
        if x is not None and (x.shape != shape or x.dtype != torch.float32):
            raise ValueError(f"{name} is {x.dtype} {list(x.shape)}: must be float32 {list(shape)}")
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors.values())
    return _Rule.apply(q, k, v, g, beta, start, chunk, keep)  # type: ignore[no-untyped-call]


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_compiled()))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # RuntimeError: there is no home directory
        logging.getLogger(__name__).info("no kernel on this machine, the gated delta rule runs in torch: %s", error)
        return None


def _compiled() -> Path:
    # a shared home may serve several CPUs, and -march=native makes another program for each
    identity, cache = "\n".join((SOURCE.read_text(), *COMPILE, *LINK, *processor())), cache_directory()
    library = cache / f"gated_delta-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as build:
            whole, compiled = Path(build) / library.name, Path(build) / "gated_delta.o"
            subprocess.run([*COMPILE, "-o", compiled, SOURCE], check=True, capture_output=True)
            subprocess.run([*LINK, "-o", whole, compiled], check=True, capture_output=True)
            whole.replace(library)  # at once, so that a process that starts meanwhile never loads half a file
    return library


def _call(name: str, value: int, chunk: int, *tensors: Tensor | None) -> None:
    """Call the kernel `name` with tensors [B, T, H, ...], in the order of the enum in gated_delta.cpp."""
    library, k = _library(), tensors[1]
    assert library is not None and k is not None
    batch, tokens, heads, key = k.shape
    # the kernel takes any stride, except in the last dimension, where it must be 1
    dense = [x.contiguous() if x is not None and x.dim() == 4 and x.stride(3) != 1 else x for x in tensors]
    views = (_View * len(dense))(*(_View() if x is None else _View(x.data_ptr(), *x.stride()[:3]) for x in dense))
    sizes = _Sizes(batch, heads, tokens, key, value, chunk, torch.get_num_threads())
    getattr(library, name)(ctypes.byref(sizes), views)


def _rows(state: Tensor | None) -> Tensor | None:
    """View states [B, H, K, V] as [B, K, H, V], the layout in which the kernel addresses all tensors."""
    return None if state is None else state.transpose(1, 2)


def _operator(function: Callable[..., Any]) -> Any:
    """Make a function the torch operator of its name on CPUs. Not torch.library.custom_op, whose first call imports
    torch._dynamo: more than a second, for which each process that trains or answers would wait."""
    name = f"sleepmodel::{function.__name__}"
    torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(name, "CPU", function)
    return getattr(torch.ops.sleepmodel, function.__name__)


@_operator
def gated_delta_forward(
    q: Tensor | None, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, start: Tensor, chunk: int, keep: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """o, the final state and, for the backward, the errors [B, T, H, V] and the states in which the chunks after the
    first begin, [B, H, (chunks - 1) * K, V]. o is empty without q, the last two without `keep`."""
    (batch, tokens, heads, key), value = k.shape, v.shape[-1]
    later = (tokens - 1) // chunk
    o, errors = (v.new_empty((batch, tokens, heads, value) if wanted else 0) for wanted in (q is not None, keep))
    starts = v.new_empty((batch, heads, later * key, value) if keep else 0)
    state = v.new_empty(batch, heads, key, value)
    kept = (errors, _rows(starts)) if keep else (None, None)
    read = None if q is None else o
    _call("gated_delta_forward", value, chunk, q, k, v, g, beta, _rows(start), *kept, read, _rows(state))
    return o, state, errors, starts


@_operator
def gated_delta_backward(
    do: Tensor | None,
    dstate: Tensor | None,
    q: Tensor | None,
    k: Tensor,
    g: Tensor,
    beta: Tensor,
    start: Tensor,
    errors: Tensor,
    starts: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q (empty without do), k, v, g, beta and start."""
    (batch, _, heads, key), value = k.shape, errors.shape[-1]
    dq = k.new_empty(0 if do is None else k.shape)
    dk, dv, dg, dbeta = (k.new_empty(x.shape) for x in (k, errors, g, beta))
    dstart = k.new_empty(batch, heads, key, value)
    inputs = (q, k, None, g, beta, _rows(start), errors, _rows(starts), do, _rows(dstate))
    read = None if do is None else dq
    _call("gated_delta_backward", value, chunk, *inputs, read, dk, dv, dg, dbeta, _rows(dstart))
    return dq, dk, dv, dg, dbeta, dstart


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor | None,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        start: Tensor,
        chunk: int,
        keep: bool,
    ) -> tuple[Tensor | None, Tensor]:
        o, state, errors, starts = gated_delta_forward(q, k, v, g, beta, start, chunk, keep)
        ctx.save_for_backward(q, k, g, beta, start, errors, starts)
        ctx.chunk = chunk
        ctx.set_materialize_grads(False)
        return None if q is None else o, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dstate: Tensor | None) -> tuple[Tensor | None, ...]:
        dq, *others = gated_delta_backward(do, dstate, *ctx.saved_tensors, ctx.chunk)
        return None if do is None else dq, *others, None, None


# torch's FLOP counter needs a formula for each custom operator: it counts the products of `chunkwise`, not its solves
@register_flop_formula(gated_delta_forward)
def _forward_flops(
    q: Shape | None, k: Shape, v: Shape, g: Any, beta: Any, start: Any, chunk: int, *_: Any, **__: Any
) -> int:
    key, value, reads = k[-1], v[-1], q is not None
    return _flops(k, chunk, key + reads * (key + value), (2 + reads) * key * value)


@register_flop_formula(gated_delta_backward)
def _backward_flops(do: Shape | None, dstate: Any, q: Any, k: Shape, *tensors: Any, **_: Any) -> int:
    *_tensors, errors, _starts, chunk = tensors
    key, value, reads = k[-1], errors[-1], do is not None
    return _flops(k, chunk, 3 * key + value + reads * (3 * key + 2 * value), (4 + 2 * reads) * key * value)


def _flops(k: Shape, chunk: int, square: int, token: int) -> int:
    """FLOPs of products with `square` multiplications per pair of tokens of a chunk, and `token` per token."""
    batch, tokens, heads, _ = k
    lengths = (min(chunk, tokens - first) for first in range(0, tokens, chunk))
    return 2 * batch * heads * sum(c * c * square + c * token for c in lengths)
