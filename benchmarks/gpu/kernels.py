"""The forms of the gated delta rule: how far each is from the float64 recurrence, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.recurrence import errors, random_inputs
from benchmarks.gpu.timing import DTYPE, seconds
from sleepmodel.ops.gated_delta import HAS_FLA, HAS_TRITON, chunkwise, kernel_for

Form = Callable[..., tuple[Any, Tensor]]
WINDOWS = (24, 75, 128)  # tokens: of Rule 110, of the paper's other tasks, and the longest of our kernel
HEADS, SIZE, CHECKED_ROWS = 4, 64, 8


def measure_kernels(device: torch.device, batch: int) -> Iterator[dict[str, Any]]:
    """One row for each window and form, in bfloat16 (float32 on a CPU): errors relative to the norm, and seconds of the
    forward and of forward and backward for `batch` rows."""
    dtype = DTYPE[device.type]
    for tokens in WINDOWS if device.type == "cuda" else WINDOWS[:1]:
        chosen = kernel_for(device, dtype, SIZE, SIZE, tokens, batch * HEADS)
        for name, form in forms(device, dtype).items():
            row: dict[str, Any] = {"tokens": tokens, "form": name, "chosen": name == chosen}
            try:
                checked = random_inputs((CHECKED_ROWS, tokens, HEADS, SIZE, SIZE), dtype, device, alike=True)
                row["errors"] = errors(form, checked)
                timed = random_inputs((batch, tokens, HEADS, SIZE, SIZE), dtype, device, alike=False)
                row["forward_seconds"], row["both_seconds"] = _times(device, form, timed)
            except RuntimeError as error:  # fla refuses some versions of Triton on some cards
                row["refused"] = str(error).splitlines()[0]
            yield row


def forms(device: torch.device, dtype: torch.dtype) -> dict[str, Form]:
    """The forms that run here, by their names in `kernel_for`."""
    found: dict[str, Form] = {"torch": chunkwise}
    if device.type == "cuda" and HAS_TRITON:
        from sleepmodel.ops import gated_delta_triton

        found["triton"] = gated_delta_triton.rule
    if device.type == "cuda" and HAS_FLA:
        from sleepmodel.ops import gated_delta_fla

        found["fla"] = lambda q, k, v, g, beta, start: gated_delta_fla.rule(q, k, v, g, beta.to(dtype), start)
    return found


def _times(device: torch.device, form: Form, inputs: list[Tensor]) -> tuple[float, float]:
    given = [x.requires_grad_() for x in inputs]
    weights = [torch.randn_like(x) for x in form(*given)]

    def both() -> None:
        torch.autograd.grad(form(*given), given, weights)

    with torch.no_grad():
        forward = seconds(device, lambda: form(*given))
    return forward, seconds(device, both)
