"""The gated delta rule as one Triton kernel each way, for short windows on a GPU.

One program computes one head of one row. It goes through the window in chunks of 16 tokens, with the equations of
`_Chunk` in gated_delta.py, and keeps the state in registers in float32: it reads and writes each input once, where
that form launches some twenty kernels a chunk. Inputs may have different dtypes, as autocast leaves them. Products are
float32 where v is; else they are tf32, which holds every bfloat16 number.

`window` and its gradient are custom operators, so that torch.compile takes them as they are.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# the fastest of 16 and 32 tokens and 1 to 8 warps on an H100: with 32 tokens, the backward runs out of registers
CHUNK, FORWARD_WARPS, BACKWARD_WARPS = 16, 2, 4
LEAST = 16  # the least side of a matrix product in Triton


def rule(
    q: Tensor | None, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor
) -> tuple[Tensor | None, Tensor]:
    """`gated_delta_rule` for inputs in float32, bfloat16 or float16; o has v's dtype. Without q, o is None.

    initial_state: float32, as the final state is.
    """
    reads = q is not None
    # the operator takes no None: k stands for a q that is not read
    o, final, _, _ = window(k if q is None else q, k, v, log_decay, beta, initial_state, reads)
    return o if reads else None, final


@triton.jit
def _loaded(x_from, offset, real, columns, size: tl.constexpr):
    """Where vectors of `size` numbers are, which of their numbers are real, and the vectors, in float32."""
    x_at, x_real = offset[:, None] * size + columns[None, :], real[:, None] & (columns[None, :] < size)
    return x_at, x_real, tl.load(x_from + x_at, mask=x_real, other=0.0).to(tl.float32)


@triton.jit
def _cumulated(g_at, at, real):
    """exp of the decay since the chunk began [C], its last, and D [C, C] as in `_decays`."""
    total = tl.cumsum(tl.load(g_at, mask=real, other=0.0).to(tl.float32))
    last = tl.sum(tl.where(at == at.shape[0] - 1, total, 0.0))
    difference = total[:, None] - total[None, :]
    D = tl.where(at[:, None] >= at[None, :], tl.exp(tl.where(at[:, None] >= at[None, :], difference, 0.0)), 0.0)
    return tl.exp(total), tl.exp(last - total), tl.exp(last), D


@triton.jit
def _inverse(M, at, C: tl.constexpr):
    """(I + M)^-1 for a strictly lower triangular M [C, C], row by row."""
    N = -M
    for i in range(1, C):
        row = tl.sum(tl.where(at[:, None] == i, N, 0.0), 0)
        row += tl.sum(row[:, None] * N, 0)
        N = tl.where(at[:, None] == i, row[None, :], N)
    return N + tl.where(at[:, None] == at[None, :], 1.0, 0.0)


@triton.jit
def _forward(
    q_from, k_from, v_from, g_from, beta_from, start_from, o_to, final_to, states_to, inverses_to,
    T, H, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    READS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)  # of all rows
    first = (head // H) * T * H + head % H  # the offset of token 0 in [B, T, H]
    at, keys, values = tl.arange(0, C), tl.arange(0, BK), tl.arange(0, BV)
    square = keys[:, None] * V + values[None, :]
    inside = (keys[:, None] < K) & (values[None, :] < V)
    S = tl.load(start_from + head * K * V + square, mask=inside, other=0.0)
    chunks = tl.cdiv(T, C)
    for i in range(chunks):
        offset = first + (i * C + at) * H
        real = i * C + at < T
        k_at, k_real, k = _loaded(k_from, offset, real, keys, K)
        v_at, v_real, v = _loaded(v_from, offset, real, values, V)
        beta = tl.load(beta_from + offset, mask=real, other=0.0).to(tl.float32)
        e, f, decay, D = _cumulated(g_from + offset, at, real)
        KD = tl.where(at[:, None] > at[None, :], tl.dot(k, tl.trans(k), input_precision=PRECISION) * D, 0.0)
        inverse = _inverse(KD * beta[None, :], at, C)
        tl.store(states_to + (head * chunks + i) * K * V + square, S, mask=inside)
        tl.store(inverses_to + (head * chunks + i) * C * C + at[:, None] * C + at[None, :], inverse)
        R = v - e[:, None] * tl.dot(k, S, input_precision=PRECISION)
        U = beta[:, None] * tl.dot(inverse, R, input_precision=PRECISION)
        if READS:
            q = tl.load(q_from + k_at, mask=k_real, other=0.0).to(tl.float32)
            P = tl.dot(q, tl.trans(k), input_precision=PRECISION) * D
            o = tl.dot(P, U, input_precision=PRECISION) + e[:, None] * tl.dot(q, S, input_precision=PRECISION)
            tl.store(o_to + v_at, (scale * o).to(o_to.dtype.element_ty), mask=v_real)
        S = decay * S + tl.dot(tl.trans(k), f[:, None] * U, input_precision=PRECISION)
    tl.store(final_to + head * K * V + square, S, mask=inside)


@triton.jit
def _backward(
    q_from, k_from, v_from, g_from, beta_from, states_from, inverses_from, do_from, dS_from,
    dq_to, dk_to, dv_to, dg_to, dbeta_to, dstart_to,
    T, H, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, C: tl.constexpr,
    READS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0).to(tl.int64)
    first = (head // H) * T * H + head % H
    at, keys, values = tl.arange(0, C), tl.arange(0, BK), tl.arange(0, BV)
    square = keys[:, None] * V + values[None, :]
    inside = (keys[:, None] < K) & (values[None, :] < V)
    lower = at[:, None] > at[None, :]
    dS = tl.load(dS_from + head * K * V + square, mask=inside, other=0.0)
    chunks = tl.cdiv(T, C)
    for step in range(chunks):
        i = chunks - 1 - step
        offset = first + (i * C + at) * H
        real = i * C + at < T
        k_at, k_real, k = _loaded(k_from, offset, real, keys, K)
        v_at, v_real, v = _loaded(v_from, offset, real, values, V)
        beta = tl.load(beta_from + offset, mask=real, other=0.0).to(tl.float32)
        e, f, decay, D = _cumulated(g_from + offset, at, real)
        S = tl.load(states_from + (head * chunks + i) * K * V + square, mask=inside, other=0.0)
        inverse = tl.load(inverses_from + (head * chunks + i) * C * C + at[:, None] * C + at[None, :])
        W = tl.dot(inverse, v - e[:, None] * tl.dot(k, S, input_precision=PRECISION), input_precision=PRECISION)
        U = beta[:, None] * W

        # what `_Chunk` says of its gradients holds here, with Z = (I + M)^-T b dU, the gradient of R
        dk_write = tl.dot(f[:, None] * U, tl.trans(dS), input_precision=PRECISION)
        dlast = decay * tl.sum(S * dS) + tl.sum(k * dk_write)
        dU = tl.dot(f[:, None] * k, dS, input_precision=PRECISION)
        dS = decay * dS
        dG = tl.zeros([C], tl.float32)
        if READS:
            q = tl.load(q_from + k_at, mask=k_real, other=0.0).to(tl.float32)
            do = scale * tl.load(do_from + v_at, mask=v_real, other=0.0).to(tl.float32)
            P = tl.dot(q, tl.trans(k), input_precision=PRECISION) * D
            dU += tl.dot(tl.trans(P), do, input_precision=PRECISION)
            dP = tl.dot(do, tl.trans(U), input_precision=PRECISION) * D
            do = e[:, None] * do
            dq = tl.dot(do, tl.trans(S), input_precision=PRECISION) + tl.dot(dP, k, input_precision=PRECISION)
            dk_write += tl.dot(tl.trans(dP), q, input_precision=PRECISION)
            dS += tl.dot(tl.trans(q), do, input_precision=PRECISION)
            dG += tl.sum(q * dq, 1)
            tl.store(dq_to + k_at, dq.to(dq_to.dtype.element_ty), mask=k_real)
        Z = tl.dot(tl.trans(inverse), beta[:, None] * dU, input_precision=PRECISION)
        tl.store(dv_to + v_at, Z.to(dv_to.dtype.element_ty), mask=v_real)
        KD = tl.where(lower, tl.dot(k, tl.trans(k), input_precision=PRECISION) * D, 0.0)
        dbeta = tl.sum((dU - tl.dot(tl.trans(KD), Z, input_precision=PRECISION)) * W, 1)
        tl.store(dbeta_to + offset, dbeta.to(dbeta_to.dtype.element_ty), mask=real)
        dKK = tl.where(lower, -tl.dot(Z, tl.trans(U), input_precision=PRECISION) * D, 0.0)
        dR = -e[:, None] * Z
        dk_read = tl.dot(dR, tl.trans(S), input_precision=PRECISION) + tl.dot(dKK, k, input_precision=PRECISION)
        dk_write += tl.dot(tl.trans(dKK), k, input_precision=PRECISION)
        dS += tl.dot(tl.trans(k), dR, input_precision=PRECISION)
        tl.store(dk_to + k_at, (dk_read + dk_write).to(dk_to.dtype.element_ty), mask=k_real)
        dG += tl.sum(k * (dk_read - dk_write), 1)
        dG += tl.where(at == C - 1, dlast, 0.0)
        dg = tl.cumsum(dG, reverse=True)
        tl.store(dg_to + offset, dg.to(dg_to.dtype.element_ty), mask=real)
    tl.store(dstart_to + head * K * V + square, dS, mask=inside)


@torch.library.custom_op("sleepmodel::gated_delta_window", mutates_args=())
def window(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor, reads: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(o [B, T, H, V], empty if not `reads`; the final state [B, H, K, V]; for the backward, the state before each
    chunk [B, H, chunks, K, V] and the inverse of each chunk's system [B, H, chunks, C, C])."""
    q, k, v, log_decay, beta, start = (x.contiguous() for x in (q, k, v, log_decay, beta, start))
    results = _results(k, v, start, reads)
    _launch(_forward, (q, k, v, log_decay, beta, start, *results), k, v, reads, FORWARD_WARPS)
    return results


@window.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor, reads: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _results(k, v, start, reads)


@torch.library.custom_op("sleepmodel::gated_delta_window_backward", mutates_args=())
def window_backward(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor,
    states: Tensor, inverses: Tensor, do: Tensor, dS: Tensor, reads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k, v, log_decay, beta and the initial state."""
    q, k, v, log_decay, beta, do, dS = (x.contiguous() for x in (q, k, v, log_decay, beta, do, dS))
    results = _gradients(q, k, v, log_decay, beta, dS, reads)
    arguments = (q, k, v, log_decay, beta, states, inverses, do, dS, *results)
    _launch(_backward, arguments, k, v, reads, BACKWARD_WARPS)
    return results


@window_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor,
    states: Tensor, inverses: Tensor, do: Tensor, dS: Tensor, reads: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _gradients(q, k, v, log_decay, beta, dS, reads)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    (*tensors, _, ctx.reads), (_, _, states, inverses) = inputs, output
    ctx.save_for_backward(*tensors, states, inverses)


def _differentiate(ctx: Any, do: Tensor, dS: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    dq, *others = window_backward(*ctx.saved_tensors, do, dS, ctx.reads)
    return dq if ctx.reads else None, *others, None


window.register_autograd(_differentiate, setup_context=_keep)


def _results(k: Tensor, v: Tensor, start: Tensor, reads: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    (batch, tokens, heads, _), side = k.shape, CHUNK
    chunks = -(-tokens // side)
    return (
        torch.empty_like(v if reads else v[:, :0], memory_format=torch.contiguous_format),
        torch.empty_like(start, memory_format=torch.contiguous_format),
        start.new_empty(batch, heads, chunks, *start.shape[2:]),
        start.new_empty(batch, heads, chunks, side, side),
    )


def _gradients(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, dS: Tensor, reads: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq = torch.empty_like(q if reads else q[:, :0], memory_format=torch.contiguous_format)
    dk, dv, dg, dbeta, dstart = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v, log_decay, beta, dS)
    )
    return dq, dk, dv, dg, dbeta, dstart


def _launch(kernel: Any, arguments: tuple[Tensor, ...], k: Tensor, v: Tensor, reads: bool, warps: int) -> None:
    (batch, tokens, heads, key), value = k.shape, v.shape[-1]
    kernel[(batch * heads,)](
        *arguments,
        tokens,
        heads,
        key**-0.5,
        K=key,
        V=value,
        BK=_side(key),
        BV=_side(value),
        C=CHUNK,
        READS=reads,
        PRECISION="ieee" if v.dtype == torch.float32 else "tf32",
        num_warps=warps,
    )


def _side(size: int) -> int:
    return max(LEAST, triton.next_power_of_2(size))
