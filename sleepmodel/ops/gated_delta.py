"""The gated delta rule: S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, o_t = S_t q_t.

`recurrent` is the definition, one token at a time. `chunkwise` is the same function by matrix products: inside a chunk
of C tokens the corrected writes U solve one unit-triangular system, (I + A) U = R. `gated_delta_rule` picks the form.
Here the state is kept as [K, V], the transpose of the paper's S. The decay acts before the error is taken.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HAS_FLA = importlib.util.find_spec("fla") is not None


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Read and write a fast-weight matrix over T tokens (paper, "The mechanism").

    q, k: [B, T, H, K], k of unit norm (q is scaled by K**-0.5 inside); v: [B, T, H, V];
    log_decay, beta: [B, T, H], alpha = exp(log_decay), log_decay <= 0, beta in [0, 2];
    initial_state: [B, H, K, V], float32 (float64 for float64 inputs); None is zero.
    Returns o [B, T, H, V] in v's dtype and the final state [B, H, K, V] in float32 (float64).
    """
    half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else v.dtype
    if HAS_FLA and q.is_cuda and half in (torch.bfloat16, torch.float16):
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        q, k, v, beta = (x.to(half) for x in (q, k, v, beta))
        return chunk_gated_delta_rule(
            q, k, v, log_decay.float(), beta, initial_state=initial_state, output_final_state=True
        )
    return chunkwise(q, k, v, log_decay, beta, initial_state)


def gated_delta_write(k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor) -> Tensor:
    """The final state of `gated_delta_rule`, for a window whose outputs nobody reads."""
    return _chunks(None, k, v, log_decay, beta, initial_state, chunk_length(k.shape[1]))[1]


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule token by token: the reference to which every other form is held. Shapes as in `gated_delta_rule`."""
    dtype, out_dtype = _state_dtype(v), v.dtype
    q, k, v, log_decay, beta = (x.to(dtype) for x in (q, k, v, log_decay, beta))
    state = _start(initial_state, k, v)
    outputs = []
    for t in range(q.shape[1]):
        state = state * log_decay[:, t, :, None, None].exp()
        error = v[:, t] - torch.einsum("bhkv,bhk->bhv", state, k[:, t])
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * error)
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t] * q.shape[-1] ** -0.5))
    return torch.stack(outputs, 1).to(out_dtype), state


def chunk_length(tokens: int) -> int:
    """Tokens solved at once, by measurement on CPU (benchmarks/kernel.py): small windows are one chunk."""
    if tokens <= 48:
        return tokens
    return 32 if tokens <= 128 else 64


def chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The rule by chunks of `chunk` tokens (None: `chunk_length`). Shapes as in `gated_delta_rule`."""
    return _chunks(q, k, v, log_decay, beta, initial_state, chunk or chunk_length(q.shape[1]))


def _chunks(
    q: Tensor | None, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor | None, chunk: int
) -> tuple[Any, Tensor]:
    dtype, out_dtype = _state_dtype(v), v.dtype
    (batch, tokens, heads, _), value_dim = k.shape, v.shape[-1]
    state = _start(initial_state, k, v).flatten(0, 1)

    def pieces(x: Tensor) -> tuple[Tensor, ...]:
        # [B, T, H, ...] -> [B*H, T, ...], so that each product is one batched matmul
        return x.to(dtype).transpose(1, 2).reshape(batch * heads, tokens, *x.shape[3:]).split(chunk, 1)

    inputs = [pieces(x) for x in (k, v, log_decay, beta)]
    outputs = []
    with torch.autocast(k.device.type, enabled=False):  # the state is float32, and no half precision solves
        for i in range(len(inputs[0])):
            part = None if q is None else pieces(q)[i]
            output, state = _Chunk.apply(part, *(x[i] for x in inputs), state)  # type: ignore[no-untyped-call]
            outputs.append(output)
    state = state.view(batch, heads, -1, value_dim)
    if q is None:
        return None, state
    return torch.cat(outputs, 1).view(batch, heads, tokens, value_dim).transpose(1, 2).to(out_dtype), state


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _start(initial_state: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    if initial_state is not None:
        return initial_state
    batch, _, heads, key_dim = k.shape
    return torch.zeros(batch, heads, key_dim, v.shape[-1], dtype=_state_dtype(v), device=v.device)


class _Chunk(torch.autograd.Function):
    """One chunk: q, k [M, C, K], v [M, C, V], g, beta [M, C], S [M, K, V] -> o [M, C, V], S [M, K, V].

    Without q there is no o. The backward recomputes the C x C matrices from the inputs instead of keeping them: at
    fast-weight sizes the products are cheaper than the memory traffic of what autograd would save.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor | None, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, S: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        D, e, f = _decays(g)
        b = beta.unsqueeze(-1)
        A = torch.bmm(k, k.mT).mul_(D).mul_(b)
        R = torch.baddbmm(v, k * e, S, alpha=-1).mul_(b)
        # unitriangular reads the strict lower part of A alone
        U = torch.linalg.solve_triangular(A, R, upper=False, unitriangular=True)
        ctx.save_for_backward(q, k, v, g, beta, S, U)
        S_out = torch.baddbmm(S * e[:, -1:], (k * f).mT, U)
        if q is None:
            return None, S_out
        P = torch.bmm(q, k.mT).mul_(D)
        return torch.baddbmm(torch.bmm(P, U), q * e, S).mul_(q.shape[-1] ** -0.5), S_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dS_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, g, beta, S, U = ctx.saved_tensors
        D, e, f = _decays(g)
        b = beta.unsqueeze(-1)
        ke = k * e
        UdS = torch.bmm(U, dS_out.mT)
        dU = torch.bmm(k * f, dS_out)
        dS = dS_out * e[:, -1:]
        dk = UdS * f
        # G enters as e = exp(G), f = exp(G_C - G) and D = exp(G_i - G_j): de is dG by e, and so on
        df = (k * dk).sum(-1)
        dG = -df
        dq = None
        if q is not None and do is not None:
            do = do * q.shape[-1] ** -0.5
            P = torch.bmm(q, k.mT).mul_(D)
            dU.baddbmm_(P.mT, do)
            dP = torch.bmm(do, U.mT)
            doS = torch.bmm(do, S.mT).mul_(e)
            dq = torch.baddbmm(doS, dP * D, k)
            dk.baddbmm_((dP * D).mT, q)
            dS.baddbmm_((q * e).mT, do)
            dP.mul_(P)
            dG += (q * doS).sum(-1) + dP.sum(-1) - dP.sum(-2)

        # the solve: (I + A) U = R, so dR = (I + A)^-T dU and dA = -dR U^T
        KD = torch.bmm(k, k.mT).mul_(D).tril_(-1)
        dR = torch.linalg.solve_triangular((KD * b).mT, dU, upper=True, unitriangular=True)
        dA = torch.bmm(dR, U.mT).neg_()
        dv = dR * b
        dvS = torch.bmm(dv, S.mT).mul_(e)
        dbeta = (dR * torch.baddbmm(v, ke, S, alpha=-1)).sum(-1) + (dA * KD).sum(-1)
        dKK = (dA * b).mul_(D).tril_(-1)
        dk.sub_(dvS).baddbmm_(dKK + dKK.mT, k)
        dS.baddbmm_(ke.mT, dv, alpha=-1)
        dA.mul_(KD).mul_(b)
        dG += dA.sum(-1) - dA.sum(-2) - (k * dvS).sum(-1)
        dG[:, -1] += df.sum(-1) + (S * dS_out).sum((1, 2)) * e[:, -1, 0]
        dg = dG.flip(-1).cumsum(-1).flip(-1)
        return dq, dk, dv, dg, dbeta, dS


def _decays(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With G = cumsum(g): D_ij = exp(G_i - G_j) for i >= j, else 0, [M, C, C]; exp(G) and exp(G_C - G), [M, C, 1]."""
    G = g.cumsum(-1)
    # masked before the exponential too: above the diagonal the difference is positive and may overflow
    D = (G.unsqueeze(-1) - G.unsqueeze(-2)).tril_().exp_().tril_()
    return D, G.exp().unsqueeze(-1), D[:, -1].unsqueeze(-1)
