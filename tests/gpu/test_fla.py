"""The operators around flash-linear-attention's kernels: outputs, final state and every gradient.

Triton's interpreter cannot compute in bfloat16, so that it is float16 unless there is a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.recurrence import errors, random_inputs

REASON = "NO FLA HERE: how its kernels are called is not tested; the extra `gpu` has it"
pytest.importorskip("triton", reason=REASON)
pytest.importorskip("fla", reason=REASON)
from sleepmodel.ops import gated_delta_fla  # noqa: E402

ON_GPU = torch.cuda.is_available()
# against the float64 recurrence, relative to the norm
LIMITS = {torch.float16: 4e-3, torch.bfloat16: 4e-2} if ON_GPU else {torch.float16: 4e-3}
# K = V = 64 at T = 24: where fla's backward was wrong on Hopper below triton 3.7.1 (its issue 640)
# one token has many rows, as the gradient of a single decay may be nearly 0
SHAPES = [(2, 24, 2, 64, 64), (1, 75, 1, 64, 32), (8, 1, 2, 32, 32)]


class Index(int):
    """An index of a kernel's loop, which a compiled kernel can cast."""

    def to(self, dtype: object) -> Index:
        return self


def index_range(*bounds: int) -> Iterator[Index]:
    return map(Index, range(*bounds))


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: loops with indices that `to` casts, and one configuration of each kernel, as none can be timed."""
    if not ON_GPU:
        from fla.ops.common import chunk_delta_h
        from triton.runtime.autotuner import Autotuner

        monkeypatch.setattr(chunk_delta_h, "range", index_range, raising=False)
        run = Autotuner.run

        def run_first(self: Autotuner, *arguments: object, **named: object) -> object:
            self.configs = self.configs[:1]
            return run(self, *arguments, **named)

        monkeypatch.setattr(Autotuner, "run", run_first)


def rule(
    q: Tensor | None, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor, start: Tensor
) -> tuple[Tensor | None, Tensor]:
    return gated_delta_fla.rule(q, k, v, log_decay, beta.to(v.dtype), start)


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_recurrence(
    shape: tuple[int, ...], dtype: torch.dtype, alike: bool, reads: bool, device: torch.device
) -> None:
    found = errors(rule, random_inputs(shape, dtype, device, alike), reads)
    assert max(found.values()) < LIMITS[dtype], found


def test_its_shapes_are_known_without_running_it(device: torch.device) -> None:
    q, k, v, log_decay, beta, start = random_inputs((1, 70, 2, 16, 32), torch.float16, device, alike=False)
    given = tuple(x.requires_grad_() for x in (q, k, v, log_decay, beta.half(), start))
    torch.library.opcheck(gated_delta_fla.chunked, given, atol=1e-2, rtol=1e-2)
