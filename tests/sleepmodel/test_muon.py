"""MuonAdamW computes what torch's Muon and AdamW do."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from sleepmodel.config.training import TrainConfig
from sleepmodel.training.muon import NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS, MuonAdamW, orthogonalized
from sleepmodel.training.optim import build_optimizer, peak_rates, set_rates

# on a CPU the orthogonalised matrices are torch's bit for bit; that they are scaled before they are added, and not in
# the same operation, costs one rounding of a weight
TOLERANCE = 2**-23
ADAM: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-8}
# shapes that repeat, out of order; tall, wide, a row and a column
MATRICES = [(48, 16), (16, 16), (16, 48), (16, 16), (2, 16), (48, 16), (16, 16), (1, 16), (16, 1)]
OTHERS = [(16,), (5, 16), ()]
RATES = (0.1, 1.0, 0.7, 0.01)


def weights() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in (*MATRICES, *OTHERS)]
    return made[: len(MATRICES)], made[len(MATRICES) :]


def ours(muon: list[nn.Parameter], adam: list[nn.Parameter], capturable: bool = False, **lr: float) -> MuonAdamW:
    settings: dict[str, Any] = {"muon_lr": 2e-2, "adam_lr": 3e-3, "momentum": 0.9, "weight_decay": 0.1, **ADAM, **lr}
    return MuonAdamW(muon, adam, muon_dtype=torch.bfloat16, capturable=capturable, **settings)


def torchs(muon: list[nn.Parameter], adam: list[nn.Parameter]) -> list[Optimizer]:
    return [
        Muon(muon, lr=2e-2, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original"),
        AdamW(adam, lr=3e-3, weight_decay=0.1, **ADAM),
    ]


def steps(optimizers: list[Any], trained: list[nn.Parameter], rates: tuple[float, ...] = RATES, seed: int = 1) -> None:
    """A step at each of the rates. The third matrix and the first vector have no gradient in the second."""
    peaks = [peak_rates(optimizer) for optimizer in optimizers]
    generator = torch.Generator().manual_seed(seed)
    for i, rate in enumerate(rates):
        for place, weight in enumerate(trained):
            gradient = torch.randn(weight.shape, generator=generator)
            weight.grad = None if i == 1 and place in (2, len(MATRICES)) else gradient
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            set_rates(optimizer, peak, rate)
            optimizer.step()


def buffers(optimizers: list[Any], trained: list[nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    for optimizer in optimizers:
        for place, weight in enumerate(trained):
            yield from ((f"{place} {name}", value) for name, value in optimizer.state.get(weight, {}).items())


@pytest.mark.parametrize("capturable", [False, True])
def test_it_computes_what_torch_does(capturable: bool) -> None:
    (muon, adam), (expected_muon, expected_adam) = weights(), weights()
    got, expected = muon + adam, expected_muon + expected_adam
    optimizer, torch_optimizers = ours(muon, adam, capturable), torchs(expected_muon, expected_adam)
    steps([optimizer], got)
    steps(torch_optimizers, expected)
    assert not torch.equal(muon[0], weights()[0][0])
    for place, (a, b) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(a, b, rtol=len(RATES) * TOLERANCE, atol=1e-6 if capturable else 1e-8, msg=str(place))
    states, torch_states = dict(buffers([optimizer], got)), dict(buffers(torch_optimizers, expected))
    assert states.keys() == torch_states.keys()
    for name, value in torch_states.items():
        torch.testing.assert_close(states[name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("capturable", [False, True])
def test_a_restored_optimizer_goes_on_as_the_saved_one(capturable: bool) -> None:
    """Also where it was saved without `capturable`, as on a CPU, and goes on with it; its own rates count."""
    whole = weights()
    optimizer = ours(*whole)
    steps([optimizer], [*whole[0], *whole[1]])
    saved = [weight.detach().clone() for each in whole for weight in each]
    again = weights()
    restored = ours(*again, capturable=capturable, muon_lr=1e-3)
    restored.load_state_dict(deepcopy(optimizer.state_dict()))
    assert peak_rates(restored) == pytest.approx([1e-3, 3e-3])
    with torch.no_grad():
        for weight, value in zip([*again[0], *again[1]], saved, strict=True):
            weight.copy_(value)
    rate = restored.param_groups[0]["lr"]
    set_rates(restored, [2e-2, 3e-3], 1.0)
    assert (restored.param_groups[0]["lr"] is rate) == capturable
    set_rates(optimizer, [2e-2, 3e-3], 1.0)
    for each, own in ((optimizer, whole), (restored, again)):
        steps([each], [*own[0], *own[1]], seed=2)
    for a, b in zip([*whole[0], *whole[1]], [*again[0], *again[1]], strict=True):
        torch.testing.assert_close(a, b, rtol=4 * TOLERANCE if capturable else 0, atol=1e-6 if capturable else 0)


def test_the_weights_of_one_kind_are_enough() -> None:
    muon, adam = weights()
    before = [weight.detach().clone() for weight in (*muon, *adam)]
    for optimizer in (ours(muon, []), ours([], adam)):
        assert len(optimizer.param_groups) == 1
        steps([optimizer], [*muon, *adam])
    assert not any(torch.equal(a, b) for a, b in zip((*muon, *adam), before, strict=True))


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 16, 64), (2, 64, 16), (1, 1, 16)])
def test_float32_orthogonalises_as_float64_does(shape: tuple[int, int, int]) -> None:
    """Five steps of Newton-Schulz, written out; bfloat16 is off by 8e-3."""
    matrices = torch.randn(shape)
    got = orthogonalized(matrices, torch.float32)
    assert got.is_contiguous()
    a, b, c = NEWTON_SCHULZ
    for matrix, found in zip(matrices.double(), got, strict=True):
        x = matrix / matrix.norm()
        for _ in range(NEWTON_SCHULZ_STEPS):
            gram = x @ x.T
            x = a * x + b * gram @ x + c * gram @ gram @ x
        torch.testing.assert_close(found.double(), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_muon_has_the_precision_of_the_training(precision: Any, dtype: torch.dtype) -> None:
    layer = nn.Linear(16, 16, bias=False)
    optimizer = build_optimizer(layer, TrainConfig(precision=precision, weight_decay=0.0, momentum=0.0))
    before, gradient = layer.weight.detach().clone(), torch.randn(16, 16)
    layer.weight.grad = gradient
    optimizer.step()
    rate = optimizer.param_groups[0]["lr"]
    assert torch.equal(layer.weight, before - rate * orthogonalized(gradient[None], dtype)[0])


def test_a_weight_that_is_no_matrix_is_refused_by_name() -> None:
    model = torch.nn.Module()
    model.kernels = torch.nn.Parameter(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"kernels has the shape \[2, 3, 4\]: Muon takes matrices"):
        build_optimizer(model, TrainConfig())
    assert build_optimizer(model, TrainConfig(optimizer="adamw")).param_groups[0]["params"] == [model.kernels]
