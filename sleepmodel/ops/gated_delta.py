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
    if HAS_FLA and q.is_cuda and q.dtype != torch.float32:
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule

        return chunk_gated_delta_rule(
            q, k, v, log_decay, beta.to(q.dtype), initial_state=initial_state, output_final_state=True
        )
    return chunkwise(q, k, v, log_decay, beta, initial_state)


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
    dtype, out_dtype = _state_dtype(v), v.dtype
    (batch, tokens, heads, _), value_dim = q.shape, v.shape[-1]
    state = _start(initial_state, k, v).flatten(0, 1)
    # [B, T, H, X] -> [B*H, T, X], so that each product is one batched matmul.
    q, k, v = (x.to(dtype).transpose(1, 2).reshape(batch * heads, tokens, -1) for x in (q, k, v))
    log_decay, beta = (x.to(dtype).transpose(1, 2).reshape(batch * heads, tokens) for x in (log_decay, beta))
    outputs = []
    for piece in zip(*(x.split(chunk or chunk_length(tokens), 1) for x in (q, k, v, log_decay, beta)), strict=True):
        output, state = _Chunk.apply(*piece, state)
        outputs.append(output)
    o = torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0]
    return (
        o.view(batch, heads, tokens, value_dim).transpose(1, 2).to(out_dtype),
        state.view(batch, heads, -1, value_dim),
    )


def _state_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _start(initial_state: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    if initial_state is not None:
        return initial_state
    batch, _, heads, key_dim = k.shape
    return torch.zeros(batch, heads, key_dim, v.shape[-1], dtype=_state_dtype(v), device=v.device)


class _Chunk(torch.autograd.Function):
    """One chunk: q, k [M, C, K], v [M, C, V], g, beta [M, C], S [M, K, V] -> o [M, C, V], S [M, K, V].

    The backward recomputes the C x C matrices from the inputs instead of keeping them: at fast-weight sizes the
    products are cheaper than the memory traffic of what autograd would save.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        scale = q.shape[-1] ** -0.5
        G, D = _decay_matrix(g)
        e = G.exp().unsqueeze(-1)
        A = torch.bmm(k, k.mT).mul_(D).mul_(beta.unsqueeze(-1))
        R = torch.baddbmm(v, k * e, S, alpha=-1).mul_(beta.unsqueeze(-1))
        # unitriangular reads the strict lower part of A alone.
        U = torch.linalg.solve_triangular(A, R, upper=False, unitriangular=True)
        P = torch.bmm(q, k.mT).mul_(D)
        o = torch.baddbmm(torch.bmm(P, U), q * e, S).mul_(scale)
        S_out = torch.baddbmm(S * e[:, -1:], (k * D[:, -1].unsqueeze(-1)).mT, U)
        ctx.save_for_backward(q, k, v, g, beta, S, U)
        return o, S_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor, dS_out: Tensor) -> tuple[Tensor, ...]:
        q, k, v, g, beta, S, U = ctx.saved_tensors
        do = do * q.shape[-1] ** -0.5
        G, D = _decay_matrix(g)
        e, f, b = G.exp().unsqueeze(-1), D[:, -1].unsqueeze(-1), beta.unsqueeze(-1)
        P = torch.bmm(q, k.mT).mul_(D)
        KD = torch.bmm(k, k.mT).mul_(D).tril_(-1)
        UdS = torch.bmm(U, dS_out.mT)
        doS = torch.bmm(do, S.mT)

        # the solve: (I + A) U = R, so dR = (I + A)^-T dU and dA = -dR U^T
        dU = torch.baddbmm(torch.bmm(P.mT, do), k * f, dS_out)
        dR = torch.linalg.solve_triangular((KD * b).mT, dU, upper=True, unitriangular=True)
        dA = torch.bmm(dR, U.mT).neg_()
        dP = torch.bmm(do, U.mT)
        dv = dR * b
        dvS = torch.bmm(dv, S.mT)
        error = torch.baddbmm(v, k * e, S, alpha=-1)
        dbeta = (dR * error).sum(-1) + (dA * KD).sum(-1)

        dKK = (dA * b).mul_(D).tril_(-1)
        dQK = dP * D
        dq = torch.baddbmm(doS * e, dQK, k)
        dk = torch.baddbmm(UdS * f - dvS * e, dKK + dKK.mT, k).baddbmm_(dQK.mT, q)
        dS = torch.baddbmm(dS_out * e[:, -1:], (q * e).mT, do).baddbmm_((k * e).mT, dv, alpha=-1)

        # every use of G: e = exp(G), D = exp(G_i - G_j), f = exp(G_C - G)
        dD = dP.mul_(P).add_(dA.mul_(KD).mul_(b))
        df = (k * UdS).sum(-1, keepdim=True) * f
        dG = dD.sum(-1) - dD.sum(-2) + (((q * doS - k * dvS).sum(-1, keepdim=True)) * e - df).squeeze(-1)
        dG[:, -1] += df.sum((1, 2)) + (S * dS_out).sum((1, 2)) * e[:, -1, 0]
        dg = dG.flip(-1).cumsum(-1).flip(-1)
        return dq, dk, dv, dg, dbeta, dS


def _decay_matrix(g: Tensor) -> tuple[Tensor, Tensor]:
    """G = cumsum(g) [M, C] and D_ij = exp(G_i - G_j) for i >= j, else 0 [M, C, C]."""
    G = g.cumsum(-1)
    # masked before the exponential: above the diagonal the difference is positive and may overflow
    D = (G.unsqueeze(-1) - G.unsqueeze(-2)).tril_()
    return G, D.exp_().tril_()
