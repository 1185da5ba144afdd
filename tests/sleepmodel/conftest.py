"""Small random models and batches. Output projections start at zero, so weights are shaken for anything to flow."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sleepmodel import ModelConfig, SleepModel
from sleepmodel.config.model import RopeScaling

MakeModel = Callable[..., SleepModel]
EVERY_MIXER = ("attention", "delta", "jet", "attention", "linear", "gated_delta")
# what pretrained models have, with fast weights that were put in
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {
        "mixers": ("attention", "jet", "attention"),
        "inserted": (1,),
        "n_heads": 4,
        "kv_heads": 2,
        "head_dim": 6,
        "attention_bias": "all",
        "qk_norm": "none",
        "rope_base": 50.0,
        "rope_scaling": RopeScaling(factor=4.0, low_freq_factor=0.5, high_freq_factor=2.0, original_positions=16),
        "mlp": "swiglu",
        "mlp_width": 24,
        "mlp_bias": True,
        "norm_eps": 1e-5,
        "tied": True,
    },
    "qwen2": {
        "mixers": ("attention", "local_attention", "gated_delta"),
        "inserted": (2,),
        "conv": 4,
        "kv_heads": 1,
        "attention_bias": "qkv",
        "qk_norm": "none",
        "mlp": "swiglu",
        "norm_eps": 1e-6,
    },
    "qwen3": {
        "mixers": ("delta", "attention", "attention"),
        "inserted": (0,),
        "n_heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
        "qk_norm": "learned",
        "mlp": "swiglu",
        "norm_eps": 1e-6,
        "tied": True,
    },
    "ouro": {
        "mixers": ("attention", "jet", "attention"),
        "inserted": (1,),
        "qk_norm": "none",
        "mlp": "swiglu",
        "norm_eps": 1e-6,
        "sandwich_norms": True,
        "loop_norm": True,
    },
    "jet_nemotron": {
        "mixers": ("jet_nemotron", "attention", "local_attention", "jet_nemotron"),
        "kv_heads": 1,
        "attention_bias": "qkv",
        "qk_norm": "none",
        "mlp": "swiglu",
        "norm_eps": 1e-6,
        "tied": True,
    },
}
CONVOLVED: dict[str, Any] = {
    "mixers": EVERY_MIXER,
    "conv": 6,
}  # wider than jet's own, and than many a piece of a window
KINDS: dict[str, dict[str, Any]] = {"every mixer": {"mixers": EVERY_MIXER}, "convolved": CONVOLVED, **ARCHITECTURES}
every_kind = pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
every_architecture = pytest.mark.parametrize("fields", ARCHITECTURES.values(), ids=ARCHITECTURES)


def build_small(seed: int = 0, dtype: torch.dtype = torch.float64, noise: float = 0.3, **fields: Any) -> SleepModel:
    settings = {
        "vocab_size": 5,
        "d_model": 16,
        "n_heads": 2,
        "mixers": ("attention", "gated_delta"),
        "window": 6,
        "fast_heads": 2,
        "key_dim": 8,
        "value_dim": 8,
        "max_positions": 64,
        "local_span": 4,
    }
    torch.manual_seed(seed)
    model = SleepModel(ModelConfig(**{**settings, **fields})).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model


@pytest.fixture
def make_model() -> MakeModel:
    return build_small


EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64, another order of sums
# of a row of 21 tokens, by sleep_on
ANSWERS = {"prompts": (19, 20), "all": tuple(range(1, 21))}


def rows(seed: int, batch: int = 3, tokens: int = 21, answers: tuple[int, ...] = (19, 20)) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, list(answers)] = True
    return torch.randint(0, 5, (batch, tokens), generator=make), mask


def gradients(model: SleepModel, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, model.parameters(), strict=True)]
