"""Language models that sleep: attention and fast weights, refined by offline recurrent passes (arXiv 2605.26099).

`import sleepmodel` needs only torch, numpy and safetensors. sleepmodel.distributed imports Ray and DeepSpeed,
sleepmodel.tracking imports MLflow.
"""

from __future__ import annotations

from sleepmodel.config import ModelConfig, Scale, TrainConfig
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
