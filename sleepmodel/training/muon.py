"""Muon and AdamW as one optimiser, which takes few launches: Muon's matrices of one shape are updated together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Keller Jordan's Muon
NEWTON_SCHULZ_STEPS = 5
SMALLEST_NORM = 1e-7


class MuonAdamW(Optimizer):
    """Muon (with Keller Jordan's scaling) for matrices, AdamW for everything else.

    With `muon_dtype` bfloat16 it computes what torch.optim.Muon and torch.optim.AdamW do;
    tests/sleepmodel/test_muon.py gives the tolerance. Both leave a weight without a gradient as it is. The states have
    torch's names: momentum_buffer; step, exp_avg, exp_avg_sq.

    muon_dtype: the precision in which matrices are orthogonalised;
    capturable: keep the learning rates and AdamW's steps on the device of the weights, so that `step` never waits for
    it, and could be replayed as a CUDA graph with other rates.
    """

    def __init__(
        self,
        muon: Iterable[nn.Parameter],
        adam: Iterable[nn.Parameter],
        muon_lr: float,
        adam_lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        muon_dtype: torch.dtype,
        capturable: bool = False,
    ) -> None:
        # the matrices of one shape stand together
        matrices, others = sorted(muon, key=lambda weight: weight.shape, reverse=True), [*adam]
        groups: list[dict[str, Any]] = []
        if matrices:
            groups.append({"params": matrices, "lr": muon_lr, "momentum": momentum, "dtype": muon_dtype})
        if others:
            groups.append({"params": others, "lr": adam_lr, "betas": betas, "eps": eps})
        for group in groups:
            group |= {"weight_decay": weight_decay, "capturable": capturable, "fused": capturable}
            if capturable:
                group["lr"] = torch.tensor(group["lr"], device=group["params"][0].device)
        super().__init__(groups, {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of each weight. The settings stay those of this optimiser."""
        settings = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        saved = zip(state_dict["param_groups"], settings, strict=True)
        super().load_state_dict({**state_dict, "param_groups": [{**group, **own} for group, own in saved]})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient. closure: not supported."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if "momentum" in group:
                self._muon(weights, group)
            else:
                self._adamw(weights, group)

    def _muon(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        if not weights:
            return
        gradients = gradients_of(weights)
        momenta = [self._state(weight, "momentum_buffer") for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for (rows, columns), same in groupby(zip(weights, updates, strict=True), lambda pair: pair[0].shape):
            changed, directions = zip(*same, strict=True)
            step = orthogonalized(torch.stack(directions), group["dtype"])
            step.mul_(group["lr"] * -math.sqrt(max(1, rows / columns)))
            torch._foreach_add_(changed, step.unbind())

    def _adamw(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        means, squares = ([self._state(weight, name) for weight in weights] for name in ("exp_avg", "exp_avg_sq"))
        adamw(
            weights,
            gradients_of(weights),
            means,
            squares,
            [],
            [self._steps(weight, group["capturable"]) for weight in weights],
            capturable=group["capturable"],
            fused=group["fused"] or None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _state(self, weight: Tensor, name: str) -> Tensor:
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight)
        return state[name]

    def _steps(self, weight: Tensor, on_device: bool) -> Tensor:
        state = self.state[weight]
        if "step" not in state:
            state["step"] = torch.zeros((), device=weight.device if on_device else "cpu")
        return state["step"]


def gradients_of(weights: Iterable[Tensor]) -> list[Tensor]:
    """The gradients of the weights that have one."""
    return [weight.grad for weight in weights if weight.grad is not None]


def orthogonalized(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """For each of the matrices [M, R, C], U V^T of its singular value decomposition, nearly: the five steps of
    Newton-Schulz in `dtype` leave singular values of .7 to 1.2. Contiguous, in the dtype of the matrices."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(dtype)
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.mT if tall else x
    # to an equal dtype, `to` returns x as it lies, transposed too
    return x.to(matrices.dtype, memory_format=torch.contiguous_format).contiguous()
