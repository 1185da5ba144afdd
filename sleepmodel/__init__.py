"""Language models that sleep: hybrid attention + fast weights with offline recurrent passes (arXiv 2605.26099).

Importing this needs torch alone; Ray, DeepSpeed and MLflow load with distributed.py, tuning.py and tracking.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sleepmodel.config import ModelConfig, Scale, TrainConfig
from sleepmodel.layers import PAD
from sleepmodel.model import SleepModel
from sleepmodel.saving import load, save

if TYPE_CHECKING:
    from sleepmodel.session import Memory, Session

__all__ = ["PAD", "Memory", "ModelConfig", "Scale", "Session", "SleepModel", "TrainConfig", "load", "save"]


def __getattr__(name: str) -> Any:
    # on first use, for `python -m sleepmodel.session` runs that module itself
    if name not in ("Memory", "Session"):
        raise AttributeError(f"module 'sleepmodel' has no attribute {name!r}")
    from sleepmodel import session

    return getattr(session, name)
