"""A mixer of your own: Oja's rule, a Hebbian write that decays along what the value already explains."""

import torch
from torch import Tensor

from sleepmodel.mixers.gated_delta import GatedDelta


class Oja(GatedDelta):
    """S <- alpha S + beta (k - S v) v^T: as GatedDelta, but the error is the key's, not the value's.

    A reference: a loop over the tokens. Write it in chunks, as sleepmodel/ops does, before you train for long.
    """

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        v, read = torch.nn.functional.normalize(v, dim=-1), []
        for t in range(k.shape[1]):  # k: [B, T, H, K], v: [B, T, H, V], g and beta: [B, T, H], state: [B, H, K, V]
            error = k[:, t] - torch.einsum("bhkv,bhv->bhk", state, v[:, t])
            write = torch.einsum("bhk,bhv->bhkv", error, v[:, t])
            state = g[:, t, :, None, None].exp() * state + beta[:, t, :, None, None] * write
            read.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state) * q.shape[-1] ** -0.5)
        return torch.stack(read, dim=1), state

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        return self.rule(k, k, v, g, beta, state)[1]
