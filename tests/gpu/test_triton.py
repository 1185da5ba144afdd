"""Our Triton kernel is the gated delta rule: outputs, final state and every gradient."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.recurrence import errors, random_inputs
from sleepmodel.ops.gated_delta import chunkwise, gated_delta_rule, gated_delta_write

pytest.importorskip("triton", reason="NO TRITON HERE: our GPU kernel is not tested; the extra `gpu` has it")
from sleepmodel.ops import gated_delta_triton

# against the float64 recurrence, relative to the norm. A GPU multiplies bfloat16 inputs in tf32, and rounds results
LIMITS = {torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}
# windows of less than a chunk, of one, of several and of a part, and sizes that fill no block. One token has many rows,
# as the gradient of a single decay may be nearly 0
SHAPES = [(2, 24, 2, 64, 64), (8, 1, 2, 8, 8), (2, 32, 1, 20, 12), (1, 33, 1, 64, 16), (1, 75, 2, 16, 64)]


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_recurrence(
    shape: tuple[int, ...], dtype: torch.dtype, alike: bool, reads: bool, device: torch.device
) -> None:
    found = errors(gated_delta_triton.rule, random_inputs(shape, dtype, device, alike), reads)
    assert max(found.values()) < LIMITS[dtype], found
    if device.type == "cpu":  # where products are exact, so is the state, however the inputs were rounded
        assert found["state"] < LIMITS[torch.float32]


def test_inputs_may_differ_in_dtype(device: torch.device) -> None:
    """Autocast leaves the keys and decays in float32, and everything else in bfloat16."""
    q, k, v, log_decay, beta, start = random_inputs((2, 24, 2, 32, 32), torch.float32, device, alike=True)
    mixed = [q.bfloat16(), k, v.bfloat16(), log_decay, beta.bfloat16(), start]
    found = errors(gated_delta_triton.rule, mixed)
    assert max(found.values()) < LIMITS[torch.bfloat16], found


def test_it_takes_inputs_that_are_not_contiguous(device: torch.device) -> None:
    inputs = random_inputs((2, 10, 2, 16, 16), torch.float32, device, alike=False)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in inputs]
    for a, b in zip(gated_delta_triton.rule(*inputs), gated_delta_triton.rule(*strided), strict=True):
        assert a is not None and b is not None
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_its_shapes_are_known_without_running_it(device: torch.device) -> None:
    """torch.compile sees the operator as these shapes; opcheck runs both and compares them, and the gradients."""
    inputs = random_inputs((2, 40, 2, 16, 8), torch.float32, device, alike=False)
    given = tuple(x.requires_grad_() for x in inputs)
    for reads in (True, False):
        torch.library.opcheck(gated_delta_triton.window, (*given, reads), atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [24, 75, 200])
def test_cuda_stays_near_the_float64_recurrence(dtype: torch.dtype, tokens: int, device: torch.device) -> None:
    """Whatever kernel the dispatch takes."""
    inputs = random_inputs((4, tokens, 4, 64, 64), dtype, device, alike=True)
    found = errors(gated_delta_rule, inputs)
    assert max(found.values()) < {torch.float32: 5e-5, torch.bfloat16: 2e-2}[dtype], found
    state = gated_delta_write(*inputs[1:])
    expected = chunkwise(*(x.double() for x in inputs))[1]
    assert (state.double() - expected).norm() / expected.norm() < 2e-2
