"""The mode of a model: training or evaluation, on which modules of a mixer of your own may depend, such as dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode, and at the end give each of its modules the mode that it had.

    A model that is in this mode already stays as it is, even where modules of it have been given the other mode.
    """
    if model.training == training:
        yield
        return
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
