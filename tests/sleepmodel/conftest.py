"""A small random model: output projections start at zero, so weights are shaken for anything to flow."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sleepmodel import ModelConfig, SleepModel

MakeModel = Callable[..., SleepModel]


def build_small(seed: int = 0, dtype: torch.dtype = torch.float64, **fields: Any) -> SleepModel:
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
    }
    torch.manual_seed(seed)
    model = SleepModel(ModelConfig(**{**settings, **fields})).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def make_model() -> MakeModel:
    return build_small
