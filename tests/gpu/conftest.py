"""GPU kernels against the float64 recurrence: on a GPU if there is one, else in Triton's interpreter.

A GPU box that has torch, triton and pytest alone runs them with `--confcutdir tests/gpu`.
"""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported, which it decides over


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
