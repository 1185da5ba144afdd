"""Count the operators that a training step launches, which decide its time on a GPU while the batch is small.

    python -m benchmarks.launches

A step is one of `rule110-fig2b` in bfloat16, at N = 1 and 4, on the CPU: no GPU is needed. On a GPU, each operator is
at least one kernel. Views, allocations and other operators that compute nothing are left out. An RMS norm is one
operator where a GPU has one for it. The fast weights' rule is counted in two forms: as the operators of torch's form,
and as one kernel. Writes benchmarks/results/launches.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.arguments import command_parser
from benchmarks.results_file import write_result
from pipelines.config.presets import PRESETS
from sleepmodel.config.model import ModelConfig
from sleepmodel.ops import gated_delta_cpu
from sleepmodel.training.engine import LocalEngine, clip_gradient
from sleepmodel.training.loop import build_model
from sleepmodel.training.optim import build_optimizer

PRESET, PASSES, BATCH, COMMONEST = PRESETS["rule110-fig2b"], (1, 4), 2, 12
NORM = torch.rms_norm
FORMS = {"torch": False, "kernel": True}
# these compute nothing, besides all views
FREE = {
    "_local_scalar_dense",
    "_reshape_alias",
    "_unsafe_view",
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
}


class Launches(TorchDispatchMode):
    """Counts, by name, the operators that compute."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counted = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if not func.is_view and name not in FREE:
            self.counted[name] += 1
        return func(*args, **kwargs or {})


@torch.library.custom_op("launches::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, size: list[int], weight: Tensor | None, eps: float | None) -> Tensor:
    return NORM(x, size, weight, eps)


@torch.library.custom_op("launches::rms_norm_backward", mutates_args=())
def _rms_norm_backward(dy: Tensor, x: Tensor, weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + (eps or torch.finfo(x.dtype).eps))
    normal, scaled = x * inverse, dy if weight is None else dy * weight
    dx = inverse * (scaled - normal * (scaled * normal).mean(-1, keepdim=True))
    return dx, (dy * normal).flatten(0, -2).sum(0)


class _FusedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: list[int], weight: Tensor | None, eps: float | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _rms_norm(x, size, weight, eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dweight = _rms_norm_backward(dy, x, weight, ctx.eps)
        return dx, None, None if weight is None else dweight, None


def fused_norm(x: Tensor, size: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """torch.rms_norm as on a GPU: one operator, unless x and the weight have different dtypes."""
    if weight is not None and weight.dtype != x.dtype:
        return NORM(x, size, weight, eps)
    return _FusedNorm.apply(x, list(size), weight, eps)  # type: ignore[no-untyped-call]


def count(passes: int, kernel: bool, model: ModelConfig = PRESET.model) -> dict[str, Counter[str]]:
    """The operators of a step's phases, by name. kernel: the rule is one kernel, else torch's form."""
    config = replace(PRESET.train, precision="bfloat16", batch_size=BATCH)
    tokens, mask = map(torch.from_numpy, PRESET.task.sample("train", 0, 0, BATCH).batch())
    with (
        mock.patch.object(gated_delta_cpu, "available", lambda: kernel),
        mock.patch.object(torch, "rms_norm", fused_norm),
    ):
        engine = LocalEngine(build_model(replace(model, sleep_passes=passes), config), config)
        engine.optimizer = build_optimizer(engine.model, config, capturable=True)
        engine.backward(tokens, mask)
        engine.step(1.0)  # the optimiser's states exist from the second step on
        losses: list[Tensor] = []

        def forward() -> None:
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(engine.model(tokens, mask).loss)

        phases: dict[str, Callable[[], object]] = {
            "forward": forward,
            "backward": lambda: losses[0].backward(),
            "clip": lambda: clip_gradient(engine.model, config.grad_clip),
            "optimizer": engine.optimizer.step,
        }
        return {name: _launches(run) for name, run in phases.items()}


def _launches(run: Callable[[], object]) -> Counter[str]:
    with Launches() as launches:
        run()
    return launches.counted


def main() -> None:
    rows: list[dict[str, Any]] = []
    for form, kernel in FORMS.items():
        for passes in PASSES:
            counted = count(passes, kernel)
            total = sum(counted.values(), Counter[str]())
            totals = {phase: sum(names.values()) for phase, names in counted.items()}
            rows.append(
                {"rule": form, "passes": passes, **totals, "step": sum(totals.values())}
                | {"commonest": dict(total.most_common(COMMONEST))}
            )
    _show(rows)
    print(write_result("launches", {"preset": PRESET.name, "batch": BATCH, "rows": rows}))


def _show(rows: list[dict[str, Any]]) -> None:
    columns = [name for name in rows[0] if name != "commonest"]
    table = Table(*columns, title=f"Operators of a step of {PRESET.name}, bfloat16, {BATCH} rows")
    for row in rows:
        table.add_row(*(f"{row[name]:,}" if isinstance(row[name], int) else row[name] for name in columns))
    Console().print(table)
    for row in rows:
        print(f"{row['rule']}, N = {row['passes']}:", ", ".join(f"{k} {n}" for k, n in row["commonest"].items()))


if __name__ == "__main__":
    command_parser("launches", __doc__).parse_args()
    main()
