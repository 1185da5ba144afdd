"""Language models that sleep: hybrid attention + fast weights with offline recurrent passes (arXiv 2605.26099).

Importing this needs torch, numpy and safetensors alone; sleepmodel.distributed and sleepmodel.tracking bring Ray,
DeepSpeed and MLflow.
"""

from __future__ import annotations

from sleepmodel.config import ModelConfig, Scale, TrainConfig
from sleepmodel.hub import load
from sleepmodel.inference.memory import Memory
from sleepmodel.inference.session import Session
from sleepmodel.mixers.base import PAD
from sleepmodel.model import SleepModel
from sleepmodel.serialization.model_dir import save

__all__ = ["PAD", "Memory", "ModelConfig", "Scale", "Session", "SleepModel", "TrainConfig", "load", "save"]
