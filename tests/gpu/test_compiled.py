"""torch.compile takes the kernel as one operator: no block breaks into several graphs."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.utils import counters

from sleepmodel.config.model import ModelConfig
from sleepmodel.model import SleepModel
from sleepmodel.ops import gated_delta

pytest.importorskip("triton", reason="NO TRITON HERE: our GPU kernel is not tested; the extra `gpu` has it")

MODEL = ModelConfig(
    vocab_size=3, d_model=32, n_heads=2, mixers=("attention", "gated_delta"), window=24, fast_heads=1, key_dim=16,
    value_dim=16, sleep_passes=2,
)  # fmt: skip
TOLERANCE = 1e-1  # relative to the norm of each gradient, which bfloat16 rounds in another order
NEARLY_0 = 1e-3  # relative to the norm of all gradients


def losses_and_gradients(model: SleepModel, tokens: torch.Tensor, mask: torch.Tensor) -> list[torch.Tensor]:
    with torch.autocast(tokens.device.type, torch.bfloat16):
        loss = model(tokens, mask).loss
    return [loss, *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)]


def test_a_compiled_block_is_one_graph(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_delta, "kernel_for", lambda *sizes: "triton")
    model = SleepModel(MODEL).to(device)
    for parameter in model.parameters():
        if not parameter.any():  # an output projection, which would hide what comes before it
            torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(0, 3, (2, 60), device=device)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, 50:] = True
    plain = losses_and_gradients(model, tokens, mask)
    counters.clear()
    for block in model.stack:
        block.compile(backend="aot_eager", fullgraph=True)
    compiled = losses_and_gradients(model, tokens, mask)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]
    # the gradient of one number, as of a head's bias, may be nearly 0 by chance
    least = NEARLY_0 * torch.stack([gradient.norm() for gradient in plain[1:]]).norm()
    for got, expected in zip(compiled, plain, strict=True):
        assert (got - expected).norm() <= TOLERANCE * expected.norm().clamp(min=least)
