"""The chunkwise rule is the recurrence: outputs, final state and every gradient."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sleepmodel.ops.gated_delta import chunkwise, gated_delta_rule, recurrent

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def random_inputs(seed: int, tokens: int, dtype: torch.dtype = torch.float64, eta: float = 2.0) -> Inputs:
    """Correlated keys, a non-zero start and write strengths up to eta: where a careless inverse loses precision."""
    make = torch.Generator().manual_seed(seed)
    batch, heads, key_dim, value_dim = 2, 3, 8, 5

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    q = normal(batch, tokens, heads, key_dim)
    k = F.normalize(normal(batch, tokens, heads, key_dim) + 1.5, dim=-1)
    v = normal(batch, tokens, heads, value_dim)
    log_decay = -F.softplus(normal(batch, tokens, heads))
    beta = eta * torch.sigmoid(normal(batch, tokens, heads))
    state = normal(batch, heads, key_dim, value_dim)
    q, k, v, log_decay, beta, state = (x.to(dtype).requires_grad_() for x in (q, k, v, log_decay, beta, state))
    return q, k, v, log_decay, beta, state


def outputs_and_gradients(rule, inputs: Inputs, seed: int) -> list[Tensor]:  # type: ignore[no-untyped-def]
    o, state = rule(*inputs)
    make = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=make, dtype=torch.float64).to(x.dtype) for x in (o, state)]
    gradients = torch.autograd.grad((o * weights[0]).sum() + (state * weights[1]).sum(), inputs)
    return [o, state, *gradients]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 150), st.sampled_from([None, 1, 5, 16, 64]))
def test_chunkwise_is_the_recurrence_in_float64(seed: int, tokens: int, chunk: int | None) -> None:
    inputs = random_inputs(seed, tokens)
    expected = outputs_and_gradients(recurrent, inputs, seed)
    got = outputs_and_gradients(lambda *x: chunkwise(*x, chunk=chunk), inputs, seed)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tokens", [24, 75, 512])
def test_float32_stays_near_the_float64_recurrence(tokens: int) -> None:
    inputs = random_inputs(tokens, tokens, torch.float32)
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    expected = outputs_and_gradients(recurrent, wide, 7)  # type: ignore[arg-type]
    got = outputs_and_gradients(gated_delta_rule, inputs, 7)
    for e, g in zip(expected, got, strict=True):
        error = (g.double() - e).norm() / e.norm()
        assert error < 2e-5, f"relative error {error:.1e}"


def test_without_a_start_the_state_is_zero() -> None:
    *inputs, state = random_inputs(1, 20)
    for a, b in zip(gated_delta_rule(*inputs), gated_delta_rule(*inputs, torch.zeros_like(state)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_bfloat16_inputs_keep_a_float32_state() -> None:
    q, k, v, log_decay, beta, _ = (x.detach().bfloat16() for x in random_inputs(2, 30))
    with torch.autocast("cpu", torch.bfloat16):
        o, state = gated_delta_rule(q, k, v, log_decay, beta)
    assert o.dtype == torch.bfloat16 and state.dtype == torch.float32
    _, wide = recurrent(*(x.double() for x in (q, k, v, log_decay, beta)))
    assert (state - wide).norm() / wide.norm() < 2e-5


def test_one_step_by_hand() -> None:
    """alpha decays the old state before the error is taken, beta scales the write, q is scaled by K**-0.5."""
    k = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 1, 1, 2)
    q = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    v = torch.tensor([3.0], dtype=torch.float64).view(1, 1, 1, 1)
    start = torch.tensor([4.0, 8.0], dtype=torch.float64).view(1, 1, 2, 1)
    log_decay, beta = torch.full((1, 1, 1), 0.5).double().log(), torch.full((1, 1, 1), 0.25).double()
    o, state = gated_delta_rule(q, k, v, log_decay, beta, start)
    # the decayed state is [2, 4]; the error 3 - 2 = 1 is written at strength 1/4 into the first key
    torch.testing.assert_close(state.flatten(), torch.tensor([2.25, 4.0]).double())
    torch.testing.assert_close(o.flatten(), torch.tensor([(2 * 2.25 + 4.0) / 2**0.5]).double())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_stays_near_the_float64_recurrence(dtype: torch.dtype) -> None:
    inputs = tuple(x.detach().cuda().to(dtype if i < 3 else torch.float32) for i, x in enumerate(random_inputs(3, 75)))
    o, state = gated_delta_rule(*inputs)
    expected_o, expected_state = recurrent(*(x.double() for x in inputs))
    limit = 2e-5 if dtype == torch.float32 else 2e-2
    assert (o.double() - expected_o).norm() / expected_o.norm() < limit
    assert (state.double() - expected_state).norm() / expected_state.norm() < limit
