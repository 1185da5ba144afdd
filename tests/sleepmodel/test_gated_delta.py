"""The chunkwise rule is the recurrence: outputs, final state and every gradient."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from sleepmodel.ops import gated_delta, gated_delta_cpu
from sleepmodel.ops.gated_delta import chunkwise, gated_delta_rule, gated_delta_write, recurrent

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
FLOAT32 = 2e-5  # relative to the norm, against the float64 recurrence: each output, state and gradient
kernel = pytest.mark.skipif(not gated_delta_cpu.available(), reason="needs a compiler")


def random_inputs(
    seed: int, tokens: int, dtype: torch.dtype = torch.float64, eta: float = 2.0, key_dim: int = 8, value_dim: int = 5
) -> Inputs:
    """Correlated keys, a non-zero start and write strengths up to eta: where a careless inverse loses precision."""
    make = torch.Generator().manual_seed(seed)
    batch, heads = 2, 3

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


def outputs_and_gradients(rule: Callable[..., Any], inputs: Inputs, seed: int) -> list[Tensor]:
    o, state = rule(*inputs)
    make = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=make, dtype=torch.float64).to(x.dtype) for x in (o, state)]
    gradients = torch.autograd.grad((o * weights[0]).sum() + (state * weights[1]).sum(), inputs)
    return [o, state, *gradients]


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 150), st.sampled_from([None, 1, 5, 16, 64]))
def test_chunkwise_is_the_recurrence_in_float64(seed: int, tokens: int, chunk: int | None) -> None:
    inputs = random_inputs(seed, tokens)
    expected = outputs_and_gradients(recurrent, inputs, seed)
    got = outputs_and_gradients(lambda *x: chunkwise(*x, chunk=chunk), inputs, seed)
    for e, g in zip(expected, got, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10)


def assert_near(got: list[Tensor], expected: list[Tensor]) -> None:
    names = ("o", "state", "dq", "dk", "dv", "dlog_decay", "dbeta", "dstate")
    for name, g, e in zip(names, got, expected, strict=False):
        error = (g.double() - e).norm() / e.norm()
        assert error < FLOAT32, f"{name}: relative error {error:.1e}"


def doubled(inputs: Inputs) -> Any:
    return tuple(x.detach().double().requires_grad_() for x in inputs)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("rule", [gated_delta_rule, chunkwise])
@pytest.mark.parametrize("tokens", [24, 75, 512])
def test_float32_stays_near_the_float64_recurrence(rule: Callable[..., Any], tokens: int) -> None:
    inputs = random_inputs(tokens, tokens, torch.float32)
    assert_near(outputs_and_gradients(rule, inputs, 7), outputs_and_gradients(recurrent, doubled(inputs), 7))


@pytest.mark.parametrize("rule", [gated_delta_rule, chunkwise])
def test_without_a_state_it_begins_with_zeros(rule: Callable[..., Any]) -> None:
    *inputs, _ = random_inputs(5, 30, torch.float32)

    def from_zeros(*x: Tensor) -> Any:
        return recurrent(*x, torch.zeros(2, 3, 8, 5, dtype=torch.float64))

    def found(rule: Callable[..., Any], inputs: list[Tensor]) -> list[Tensor]:
        o, state = rule(*inputs)
        return [o, state, *torch.autograd.grad(o.sum() + (state**2).sum(), inputs)]

    assert_near(found(rule, inputs), found(from_zeros, list(doubled(tuple(inputs)))))


@kernel
@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 90), st.sampled_from([1, 5, 16, 32, 64]), st.data())
def test_the_kernel_is_the_recurrence(seed: int, tokens: int, chunk: int, data: st.DataObject) -> None:
    """Widths and chunks on both sides of a vector's and a tile's length, and never a multiple of both."""
    key_dim, value_dim = (data.draw(st.sampled_from([1, 7, 16, 24, 33, 64])) for _ in range(2))
    inputs = random_inputs(seed, tokens, torch.float32, 2.0, key_dim, value_dim)
    got = outputs_and_gradients(lambda *x: gated_delta_cpu.rule(*x, chunk), inputs, seed)
    assert_near(got, outputs_and_gradients(recurrent, doubled(inputs), seed))


@kernel
def test_the_kernel_reads_any_layout_with_any_threads(threads: int) -> None:
    inputs = random_inputs(3, 75, torch.float32, 2.0, 24, 40)
    expected = outputs_and_gradients(recurrent, doubled(inputs), 3)

    def strided(x: Tensor, order: tuple[int, ...]) -> Tensor:
        back = [order.index(i) for i in range(len(order))]
        return x.permute(order).contiguous().permute(back)

    for order in [(0, 2, 1, 3), (1, 0, 2, 3), (3, 2, 1, 0)]:

        def rule(*x: Tensor, order: tuple[int, ...] = order) -> tuple[Tensor, Tensor]:
            flat = tuple(i for i in order if i < 3)
            o, state = gated_delta_rule(*(strided(y, order if y.dim() == 4 else flat) for y in x))
            # so that the gradients arrive strided too
            return strided(o, order), strided(state, order)

        assert_near(outputs_and_gradients(rule, inputs, 3), expected)


@pytest.mark.parametrize("tokens", [24, 75])
def test_each_result_has_its_own_gradients(tokens: int) -> None:
    """Of the output alone, of the state alone, and of the state that is written without an output."""
    inputs = random_inputs(5, tokens, torch.float32)
    wide = doubled(inputs)
    calls: list[tuple[Tensor, Tensor]] = [
        (gated_delta_rule(*inputs)[0], recurrent(*wide)[0]),
        (gated_delta_rule(*inputs)[1], recurrent(*wide)[1]),
        (gated_delta_write(*inputs[1:]), recurrent(*wide)[1]),
    ]
    for got, expected in calls:
        gradients = torch.autograd.grad(got.square().sum(), inputs, allow_unused=True, materialize_grads=True)
        for g, e in zip(
            gradients, torch.autograd.grad(expected.square().sum(), wide, materialize_grads=True), strict=True
        ):
            assert (g.double() - e).norm() <= FLOAT32 * e.norm()


@pytest.mark.parametrize("which", range(6))
def test_what_is_not_a_number_spreads(which: int) -> None:
    """To all that it reaches in the recurrence, and to no other row of the batch."""
    inputs = random_inputs(6, 75, torch.float32)
    clean = gated_delta_rule(*inputs)
    with torch.no_grad():
        inputs[which][0, 40 if which < 5 else 0] = torch.nan
    got, expected = (outputs_and_gradients(rule, inputs, 6) for rule in (gated_delta_rule, recurrent))
    for g, e in zip(got, expected, strict=True):
        assert (g.isnan() >= e.isnan()).all()
        assert not g[1].isnan().any()
    for g, c in zip(got, clean, strict=False):
        torch.testing.assert_close(g[1], c[1], rtol=0, atol=0)


def test_recomputation_and_no_grad_change_nothing() -> None:
    inputs = random_inputs(8, 75, torch.float32)
    expected = outputs_and_gradients(gated_delta_rule, inputs, 8)
    again = outputs_and_gradients(lambda *x: checkpoint(gated_delta_rule, *x, use_reentrant=False), inputs, 8)
    with torch.no_grad():
        free = gated_delta_rule(*inputs)
    for got, want in zip([*again, *free], [*expected, *expected[:2]], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@kernel
def test_the_kernel_refuses_what_it_would_misread() -> None:
    q, k, v, log_decay, beta, state = random_inputs(9, 20, torch.float32)
    with pytest.raises(ValueError, match=r"beta is .*2, 19, 3.*must be float32"):
        gated_delta_rule(q, k, v, log_decay, beta[:, 1:], state)
    with pytest.raises(ValueError, match=r"initial_state is torch\.float64"):
        gated_delta_rule(q, k, v, log_decay, beta, state.double())


@kernel
@pytest.mark.parametrize("reads", [True, False])
def test_the_kernel_counts_the_flops_of_the_torch_form(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = random_inputs(10, 75, torch.float32)
    counts = []

    def in_place(_: Any, a: Any, b: Any, **__: Any) -> int:  # which torch does not count by itself
        return 2 * a[0] * a[1] * a[2] * b[2]

    for present in (True, False):
        monkeypatch.setattr(gated_delta_cpu, "available", lambda present=present: present)
        with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: in_place}) as counter:
            results = gated_delta_rule(*inputs) if reads else (gated_delta_write(*inputs[1:]),)
            forward = counter.get_total_flops()
            sum(x.sum() for x in results).backward()  # type: ignore[union-attr]
        counts.append((forward, counter.get_total_flops()))
    assert counts[0] == counts[1] and 0 < 2 * counts[0][0] < counts[0][1]


@kernel
def test_processes_that_start_together_build_one_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        built = {job.result() for job in [pool.submit(gated_delta_cpu._compiled) for _ in range(3)]}
    assert list((tmp_path / "sleepmodel").iterdir()) == list(built)


def test_without_a_compiler_the_torch_form_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gated_delta_cpu, "COMPILE", ("no-such-compiler",))
    monkeypatch.setattr(gated_delta_cpu, "_library", gated_delta_cpu._library.__wrapped__)
    inputs = random_inputs(11, 24, torch.float32)
    assert not gated_delta_cpu.available()
    for got, want in zip(gated_delta_rule(*inputs), chunkwise(*inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_without_a_home_directory_the_torch_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user has no entry in passwd."""

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(gated_delta_cpu, "_library", gated_delta_cpu._library.__wrapped__)
    assert not gated_delta_cpu.available()


def test_what_the_torch_form_keeps_for_the_backward_grows_as_the_tokens() -> None:
    def kept(tokens: int) -> int:
        storages = dict[int, int]()

        def keep(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            _o, _state = chunkwise(*random_inputs(5, tokens))
        return sum(storages.values())

    assert kept(1024) < 2.1 * kept(512)


def test_without_a_start_the_state_is_zero() -> None:
    *inputs, state = random_inputs(1, 20)
    for a, b in zip(gated_delta_rule(*inputs), gated_delta_rule(*inputs, torch.zeros_like(state)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_tokens_the_state_stays(dtype: torch.dtype) -> None:
    inputs = [x.detach().to(dtype) for x in random_inputs(3, 0)]
    start = inputs.pop().to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    o, state = gated_delta_rule(*inputs, start)
    assert (o.shape, o.dtype) == ((2, 0, 3, 5), dtype) and torch.equal(state, start)
    assert torch.equal(gated_delta_write(*inputs[1:], start), start)
    (o.sum() + state.sum()).backward()
    assert torch.equal(start.grad, torch.ones_like(start))  # type: ignore[arg-type]
    empty, zeros = gated_delta_rule(*inputs)
    assert empty.shape == o.shape and torch.equal(zeros, torch.zeros_like(start))


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


CUDA, CPU, HALF = torch.device("cuda"), torch.device("cpu"), torch.bfloat16


@pytest.mark.parametrize(
    ("device", "dtype", "key_dim", "tokens", "heads", "form"),
    [
        (CUDA, HALF, 64, 24, 1024, "triton"),
        (CUDA, torch.float32, 64, 24, 1024, "triton"),
        (CUDA, HALF, 64, 4096, 1024, "fla"),
        (CUDA, HALF, 128, 24, 1024, "fla"),
        (CUDA, HALF, 257, 24, 1024, "torch"),  # fla asserts K <= 256
        (CUDA, HALF, 128, 24, 65536, "torch"),  # its heads are the second axis of a grid, which ends at 65,535
        (CUDA, torch.float32, 128, 24, 1024, "torch"),  # it has no float32
        (CUDA, torch.float64, 64, 24, 1024, "torch"),
        (CPU, torch.float64, 64, 24, 1024, "torch"),
    ],
)
def test_a_shape_goes_to_a_kernel_that_takes_it(
    device: torch.device, dtype: torch.dtype, key_dim: int, tokens: int, heads: int, form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name in ("HAS_TRITON", "HAS_FLA"):
        monkeypatch.setattr(gated_delta, name, True)
    assert gated_delta.kernel_for(device, dtype, key_dim, 64, tokens, heads) == form


def test_a_gpu_without_kernels_takes_the_torch_form(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HAS_TRITON", "HAS_FLA"):
        monkeypatch.setattr(gated_delta, name, False)
    assert gated_delta.kernel_for(CUDA, HALF, 64, 64, 24, 1024) == "torch"


@kernel
def test_a_cpu_takes_our_kernel_in_float32() -> None:
    assert gated_delta.kernel_for(CPU, torch.float32, 64, 64, 24, 1024) == "cpp"


@kernel
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_torch_changes_no_gradient(default: torch.dtype) -> None:
    inputs = random_inputs(3, 40, torch.float32)
    expected = outputs_and_gradients(gated_delta_rule, inputs, 0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = outputs_and_gradients(gated_delta_rule, inputs, 0)
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
