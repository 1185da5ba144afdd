"""The chunked gated delta rule of flash-linear-attention as two custom operators, which torch.compile takes as they
are: fla's own function breaks the graph of every block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 64


def rule(
    q: Tensor | None, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor
) -> tuple[Tensor | None, Tensor]:
    """`gated_delta_rule`; q, k, v, beta: bfloat16 or float16, all of one dtype. Without q, o is None.

    log_decay, initial_state: float32, as the final state is.
    """
    # fla always reads; without q it computes an output that nobody takes
    o, final, _, _ = chunked(k if q is None else q, k, v, log_decay, beta, initial_state)
    return None if q is None else o, final


@torch.library.custom_op("sleepmodel::gated_delta_fla", mutates_args=())
def chunked(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(o [B, T, H, V], the final state [B, H, K, V]; for the backward, the cumulated decay [B, T, H] and the inverse of
    each chunk's system [B, T, H, C])."""
    from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_fwd

    q, k, v, log_decay, beta, start = (x.contiguous() for x in (q, k, v, log_decay, beta, start))
    G, o, inverse, final, _, _ = chunk_gated_delta_rule_fwd(
        q, k, v, log_decay, beta, scale=q.shape[-1] ** -0.5, initial_state=start, output_final_state=True
    )
    return o.to(v.dtype), final, G, inverse


@chunked.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    o, final, G = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (v, start, log_decay))
    return o, final, G, k.new_empty(*k.shape[:3], CHUNK)


@torch.library.custom_op("sleepmodel::gated_delta_fla_backward", mutates_args=())
def chunked_backward(
    q: Tensor, k: Tensor, v: Tensor, G: Tensor, beta: Tensor, inverse: Tensor, start: Tensor, do: Tensor, dS: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, log_decay, beta and the initial state."""
    from fla.ops.gated_delta_rule.chunk import chunk_gated_delta_rule_bwd

    q, k, v, beta, start, do, dS = (x.contiguous() for x in (q, k, v, beta, start, do, dS))
    dq, dk, dv, dbeta, dg, dstart, _, _ = chunk_gated_delta_rule_bwd(
        q, k, v, G, beta, inverse, scale=q.shape[-1] ** -0.5, initial_state=start, do=do, dht=dS
    )
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dg.to(G.dtype), dbeta.to(beta.dtype), dstart


@chunked_backward.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, G: Tensor, beta: Tensor, inverse: Tensor, start: Tensor, do: Tensor, dS: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv, dg, dbeta, dstart = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v, G, beta, start)
    )
    return dq, dk, dv, dg, dbeta, dstart


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    (q, k, v, _, beta, start), (_, _, G, inverse) = inputs, output
    ctx.save_for_backward(q, k, v, G, beta, inverse, start)


def _differentiate(ctx: Any, do: Tensor, dS: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
    return chunked_backward(*ctx.saved_tensors, do, dS)


chunked.register_autograd(_differentiate, setup_context=_keep)
