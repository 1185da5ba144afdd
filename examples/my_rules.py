"""A mixer of your own: Oja's rule, a Hebbian write that takes off what the state already holds of the value."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel.mixers.gated_delta import GatedDelta


class Oja(GatedDelta):
    """S <- alpha S + beta (k - S v) v^T, read as q^T S; all else is GatedDelta's.

    The sizes: q and k [B, T, H, K], v [B, T, H, V], g = log alpha and beta [B, T, H], state [B, H, K, V]. A pad has
    g = 0 and beta = 0, so that it leaves the state alone.
    """

    def rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        dtype, outputs = v.dtype, []
        with torch.autocast(k.device.type, enabled=False):  # the state is float32, whatever x is
            q, k, v, g, beta = (x.to(state.dtype) for x in (q, k, F.normalize(v, dim=-1), g, beta))
            for t in range(k.shape[1]):  # clear, but slow: sleepmodel/ops computes whole chunks at once
                error = k[:, t] - torch.einsum("bhkv,bhv->bhk", state, v[:, t])
                write = torch.einsum("bhk,bhv->bhkv", beta[:, t, :, None] * error, v[:, t])
                state = g[:, t, :, None, None].exp() * state + write
                outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state) * self.key_dim**-0.5)
        return torch.stack(outputs, dim=1).to(dtype), state

    def write_rule(self, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> Tensor:
        return self.rule(k, k, v, g, beta, state)[1]
