"""Random inputs of the gated delta rule, and how far a form of it is from the float64 recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel.ops.gated_delta import recurrent

NAMES = ("o", "state", "dq", "dk", "dv", "dlog_decay", "dbeta", "dstart")


def random_inputs(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, alike: bool) -> list[Tensor]:
    """q, k, v in `dtype`, log_decay, beta and the initial state in float32. shape: B, T, H, K, V; alike: whether a
    row's keys are almost the same, which makes the system of a chunk ill-conditioned. beta goes up to 2."""
    batch, tokens, heads, key, value = shape
    q, own, common = (torch.randn(batch, n, heads, key) for n in (tokens, tokens, 1))
    k = F.normalize(own + 3 * common if alike else own, dim=-1)
    v, state = torch.randn(batch, tokens, heads, value), torch.randn(batch, heads, key, value)
    log_decay, beta = -0.1 * torch.rand(batch, tokens, heads), 2 * torch.rand(batch, tokens, heads)
    narrow = [x.to(device, dtype) for x in (q, k, v)]
    return [*narrow, *(x.to(device) for x in (log_decay, beta, state))]


def errors(rule: Callable[..., tuple[Any, Tensor]], inputs: list[Tensor], reads: bool = True) -> dict[str, float]:
    """The relative error, in the norm, of each output and gradient of `rule`. Without `reads`, it gets no q and its o
    is None."""

    def results(form: Callable[..., tuple[Any, Tensor]], dtype: torch.dtype | None) -> list[Tensor | None]:
        given = [x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs]
        o, state = form(*(given if reads else [None, *given[1:]]))
        loss = (state.double() * weights[1]).sum() + (0 if o is None else (o.double() * weights[0]).sum())
        wanted = given if reads else given[1:]
        gradients = torch.autograd.grad(loss, wanted)
        return [o, state, *(() if reads else (None,)), *gradients]

    def reference(q: Tensor | None, k: Tensor, *others: Tensor) -> tuple[Tensor | None, Tensor]:
        o, state = recurrent(k if q is None else q, k, *others)
        return None if q is None else o, state

    weights = [torch.randn(x.shape, dtype=torch.float64, device=x.device) for x in (inputs[2], inputs[5])]
    pairs = zip(NAMES, results(rule, None), results(reference, torch.float64), strict=True)
    return {
        name: ((got.double() - wanted).norm() / wanted.norm()).item()
        for name, got, wanted in pairs
        if got is not None and wanted is not None
    }
