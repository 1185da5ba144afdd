"""Language models that sleep: attention and fast weights, refined by offline recurrent passes (arXiv 2605.26099).

`import sleepmodel` needs only torch, numpy and safetensors, and loads them at the first use. sleepmodel.distributed
imports Ray and DeepSpeed, sleepmodel.tracking imports MLflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sleepmodel.config.model import ModelConfig
    from sleepmodel.config.training import Scale, TrainConfig
    from sleepmodel.halting import Halting
    from sleepmodel.hub import load
    from sleepmodel.inference.memory import Memory
    from sleepmodel.inference.session import Session
    from sleepmodel.mixers.base import PAD
    from sleepmodel.model import SleepModel
    from sleepmodel.pretrained.reading import from_pretrained
    from sleepmodel.pretrained.writing import save_pretrained
    from sleepmodel.serialization.model_dir import save

__all__ = [
    "PAD",
    "Halting",
    "Memory",
    "ModelConfig",
    "Scale",
    "Session",
    "SleepModel",
    "TrainConfig",
    "from_pretrained",
    "load",
    "save",
    "save_pretrained",
]

_MODULE_OF = {
    "PAD": "sleepmodel.mixers.base",
    "Halting": "sleepmodel.halting",
    "Memory": "sleepmodel.inference.memory",
    "ModelConfig": "sleepmodel.config.model",
    "Scale": "sleepmodel.config.training",
    "Session": "sleepmodel.inference.session",
    "SleepModel": "sleepmodel.model",
    "TrainConfig": "sleepmodel.config.training",
    "from_pretrained": "sleepmodel.pretrained.reading",
    "load": "sleepmodel.hub",
    "save": "sleepmodel.serialization.model_dir",
    "save_pretrained": "sleepmodel.pretrained.writing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'sleepmodel' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
