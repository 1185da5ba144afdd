"""The gated delta rule: S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, o_t = S_t q_t.

`recurrent` is the definition, one token at a time. `chunkwise` computes the same function with matrix products: within
a chunk of C tokens, the errors W solve one unit-triangular system, (I + A) W = R. gated_delta.cpp implements that form
as one kernel, for float32 on a CPU; on a GPU, gated_delta_triton.py does for short windows and
flash-linear-attention for others. `gated_delta_rule` selects the form by device, dtype and sizes, `kernel_for`.

The state is stored as [K, V], the transpose of the paper's S. The state decays before the error is computed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleepmodel.ops import gated_delta_cpu

HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_FLA = all(importlib.util.find_spec(name) is not None for name in ("fla", "einops"))  # the one needs the other
HALF = (torch.bfloat16, torch.float16)
TRITON_TOKENS, TRITON_SIZE = 128, 64  # limits of T, and of K and V, within which our kernel is the fastest on an H100
FLA_SIZE, FLA_HEADS = 256, 65535  # limits of K, and of heads in a batch (B * H): fla asserts the one, CUDA the other
# what `kernel_for` returns, in words; {} is the dtype of its inputs
KERNELS = {
    "triton": "Triton kernel of this package in {}",
    "fla": "Triton kernel of flash-linear-attention in {}",
    "cpp": "C++ kernel of this package in float32",
    "torch": "torch form in float32",
}


def gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Write T tokens to the fast weights, and read them at each token (paper, "The mechanism").

    q, k: [B, T, H, K]; the caller normalises k to unit norm, and q is scaled by K**-0.5 here; v: [B, T, H, V];
    log_decay, beta: [B, T, H]; alpha = exp(log_decay), with log_decay finite and <= 0, and beta in [0, 2];
    initial_state: [B, H, K, V], float32 (float64 for float64 inputs); None is zero.
    Returns o [B, T, H, V] in v's dtype, or on a GPU in autocast's, and the final state [B, H, K, V] in float32
    (float64). Without tokens, o is empty and the state is the initial one. Raises ValueError for inputs of other shapes
    where the CPU kernel runs.
    """
    return _rule(q, k, v, log_decay, beta, initial_state)


def gated_delta_write(k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor) -> Tensor:
    """The final state of `gated_delta_rule`, without computing its outputs."""
    return _rule(None, k, v, log_decay, beta, initial_state)[1]


def kernel_for(
    device: torch.device, dtype: torch.dtype, key_dim: int, value_dim: int, tokens: int, heads: int = 1
) -> str:
    """The form in which `gated_delta_rule` runs, a key of KERNELS.

    dtype: of v, or autocast's; tokens: T; heads: B * H.
    """
    if device.type == "cpu" and dtype != torch.float64 and gated_delta_cpu.available():
        return "cpp"
    if device.type == "cuda" and dtype != torch.float64:
        if HAS_TRITON and tokens <= TRITON_TOKENS and max(key_dim, value_dim) <= TRITON_SIZE:
            return "triton"
        if HAS_FLA and dtype in HALF and key_dim <= FLA_SIZE and heads <= FLA_HEADS:
            return "fla"
    return "torch"


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The rule token by token, of at least one. It is the reference that all other forms are tested against. Arguments
    and result as in `gated_delta_rule`."""
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
    """The chunk length C for a window of `tokens` tokens. Small windows are one chunk.

    The limits were measured on a CPU (benchmarks/kernel.py). From 129 tokens on, C = 32 would make the kernel a tenth
    faster, but the torch form slower.
    """
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
    """The rule in chunks of `chunk` tokens; None: `chunk_length`. Arguments, of at least one token, and result as in
    `gated_delta_rule`."""
    return _chunks(q, k, v, log_decay, beta, initial_state, chunk or chunk_length(q.shape[1]))


def _rule(
    q: Tensor | None, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor | None
) -> tuple[Any, Tensor]:
    (batch, tokens, heads, key_dim), value_dim = k.shape, v.shape[-1]
    on_gpu = k.device.type == "cuda"
    dtype = torch.get_autocast_dtype("cuda") if on_gpu and torch.is_autocast_enabled("cuda") else v.dtype
    if tokens == 0:  # which no kernel takes
        return None if q is None else v.to(dtype), _start(initial_state, k, v)
    # torch.compile cannot trace the C++ kernel
    traced = torch.compiler.is_compiling() and not on_gpu
    kernel = "torch" if traced else kernel_for(k.device, dtype, key_dim, value_dim, tokens, batch * heads)
    chunk = chunk_length(tokens)
    if kernel == "cpp":
        reads = None if q is None else q.float()
        o, state = gated_delta_cpu.rule(
            reads, k.float(), v.float(), log_decay.float(), beta.float(), _start(initial_state, k, v), chunk
        )
        return None if o is None else o.to(v.dtype), state
    if kernel == "triton":
        from sleepmodel.ops import gated_delta_triton

        return gated_delta_triton.rule(q, k, v, log_decay, beta, _start(initial_state, k, v))
    if kernel == "fla":
        from sleepmodel.ops import gated_delta_fla

        reads, k, v, beta = (None if x is None else x.to(dtype) for x in (q, k, v, beta))  # type: ignore[assignment]
        return gated_delta_fla.rule(reads, k, v, log_decay.float(), beta, _start(initial_state, k, v))
    return _chunks(q, k, v, log_decay, beta, initial_state, chunk)


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
    reads = [None] * len(inputs[0]) if q is None else pieces(q)
    outputs = []
    # the state is float32, and solve_triangular does not take half precision
    with torch.autocast(k.device.type, enabled=False):
        for part, *each in zip(reads, *inputs, strict=True):
            output, state = _Chunk.apply(part, *each, state)  # type: ignore[no-untyped-call]
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

    Without q, o is None. The backward recomputes the C x C matrices from the inputs: at the sizes of fast weights these
    products are cheaper than the memory traffic of the tensors that autograd would save.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor | None, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, S: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        D, e, f = _decays(g)
        A = torch.bmm(k, k.mT).mul_(D).mul_(beta.unsqueeze(-2))
        # with unitriangular=True, only the strictly lower part of A is read
        W = torch.linalg.solve_triangular(A, torch.baddbmm(v, k * e, S, alpha=-1), upper=False, unitriangular=True)
        ctx.save_for_backward(q, k, g, beta, S, W)
        U = W * beta.unsqueeze(-1)
        S_out = torch.baddbmm(S * e[:, -1:], k.mT, U * f)
        if q is None:
            return None, S_out
        P = torch.bmm(q, k.mT).mul_(D)
        return torch.baddbmm(torch.bmm(P, U), q * e, S).mul_(q.shape[-1] ** -0.5), S_out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, do: Tensor | None, dS_out: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(dS_out.device.type, enabled=False):  # the caller may be under autocast
            return _Chunk._gradients(ctx, do, dS_out)

    @staticmethod
    def _gradients(ctx: Any, do: Tensor | None, dS_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, g, beta, S, W = ctx.saved_tensors
        D, e, f = _decays(g)
        b = beta.unsqueeze(-1)
        U = W * b
        # G scales the rows of q and k alone: by exp(G_i) where they read, by exp(-G_i) where k writes. Its gradient is
        # therefore q dq + k dk_read - k dk_write, plus <S_out, dS_out> at the last token, as exp(G_C) scales S_out
        dk_write = torch.bmm(U * f, dS_out.mT)
        last = (S * dS_out).sum((1, 2)) * e[:, -1, 0] + (k * dk_write).sum((1, 2))
        dU = torch.bmm(k * f, dS_out)
        dS = dS_out * e[:, -1:]
        dG = torch.zeros_like(g)
        dq = None
        if q is not None and do is not None:
            do = do * q.shape[-1] ** -0.5
            P = torch.bmm(q, k.mT).mul_(D)
            dU.baddbmm_(P.mT, do)
            dP = torch.bmm(do, U.mT).mul_(D)
            do = do * e
            dq = torch.baddbmm(torch.bmm(do, S.mT), dP, k)
            dk_write.baddbmm_(dP.mT, q)
            dS.baddbmm_(q.mT, do)
            dG = (q * dq).sum(-1)

        # the solve, with U = b W: (I + b KD) U = b R, so the gradient of b R is (I + b KD)^-T dU
        KD = torch.bmm(k, k.mT).mul_(D).tril_(-1)
        dU = torch.linalg.solve_triangular((KD * b).mT, dU, upper=True, unitriangular=True)
        dbeta = (dU * W).sum(-1)
        dv = dU * b
        dKK = torch.bmm(dv, U.mT).neg_().mul_(D).tril_(-1)
        dR = dv * -e
        dk_read = torch.baddbmm(torch.bmm(dR, S.mT), dKK, k)
        dk_write.baddbmm_(dKK.mT, k)
        dS.baddbmm_(k.mT, dR)
        dG += (k * (dk_read - dk_write)).sum(-1)
        dG[:, -1] += last
        dg = dG.flip(-1).cumsum(-1).flip(-1)
        return dq, dk_read + dk_write, dv, dg, dbeta, dS


def _decays(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With G = cumsum(g): D [M, C, C], D_ij = exp(G_i - G_j) for i >= j, else 0; exp(G) and exp(G_C - G), [M, C, 1]."""
    G = g.cumsum(-1)
    # also mask before the exponential: above the diagonal the difference is positive and may overflow
    D = (G.unsqueeze(-1) - G.unsqueeze(-2)).tril_().exp_().tril_()
    return D, G.exp().unsqueeze(-1), D[:, -1].unsqueeze(-1)
