"""The Hebbian rule with decay (Mamba-2's): S_t = alpha_t S_{t-1} + beta_t v_t k_t^T, o_t = S_t q_t.

`recurrent` is the definition. `hebbian_rule` computes it in chunks, with matrix products. The state is [K, V].
"""

from __future__ import annotations

import torch
from torch import Tensor

from sleepmodel.ops.gated_delta import chunk_length


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """The rule token by token, of at least one, with the arguments and result of `hebbian_rule`, which is tested
    against it."""
    state, outputs = initial_state, []
    for t in range(q.shape[1]):
        write = torch.einsum("bhk,bhv->bhkv", k[:, t], beta[:, t, :, None] * v[:, t])
        state = state * log_decay[:, t, :, None, None].exp() + write
        outputs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t] * q.shape[-1] ** -0.5))
    return torch.stack(outputs, 1), state


def hebbian_rule(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """Write T tokens to the fast weights, and read them at each token. Shapes, dtypes and ranges as in
    `gated_delta_rule`."""
    if k.shape[1] == 0:
        return v, initial_state
    with torch.autocast(k.device.type, enabled=False):  # the state is float32
        state, outputs = initial_state, []
        for qc, kc, vc, gc, bc in zip(*(_chunks(x, initial_state) for x in (q, k, v, log_decay, beta)), strict=True):
            G = gc.cumsum(-1)
            # also mask before the exponential: above the diagonal the difference is positive and may overflow
            D = (G.unsqueeze(-1) - G.unsqueeze(-2)).tril().exp().tril()
            inside = (qc @ kc.mT * D) @ (vc * bc.unsqueeze(-1))
            outputs.append((inside + (qc * G.exp().unsqueeze(-1)) @ state) * q.shape[-1] ** -0.5)
            state = _next_state(kc, vc, G, bc, state)
    return torch.cat(outputs, 2).transpose(1, 2).to(v.dtype), state


def hebbian_write(k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, initial_state: Tensor) -> Tensor:
    """The final state of `hebbian_rule`, without computing its outputs."""
    if k.shape[1] == 0:
        return initial_state
    with torch.autocast(k.device.type, enabled=False):
        state = initial_state
        for kc, vc, gc, bc in zip(*(_chunks(x, initial_state) for x in (k, v, log_decay, beta)), strict=True):
            state = _next_state(kc, vc, gc.cumsum(-1), bc, state)
    return state


def _next_state(k: Tensor, v: Tensor, G: Tensor, beta: Tensor, state: Tensor) -> Tensor:
    strength = beta * (G[..., -1:] - G).exp()
    return state * G[..., -1, None, None].exp() + k.mT @ (v * strength.unsqueeze(-1))


def _chunks(x: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    # [B, T, H, ...] -> chunks [B, H, C, ...], so that each product is one batched matmul
    return x.to(state.dtype).transpose(1, 2).split(chunk_length(x.shape[1]), 2)
