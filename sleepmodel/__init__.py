"""Language models that sleep: hybrid attention + fast weights with offline recurrent passes (arXiv 2605.26099).

Importing this needs torch alone; Ray, DeepSpeed and MLflow load with distributed.py, tuning.py and tracking.py.
"""

from sleepmodel.config import ModelConfig, Scale, TrainConfig
from sleepmodel.model import SleepModel
from sleepmodel.saving import load, save

__all__ = ["ModelConfig", "Scale", "SleepModel", "TrainConfig", "load", "save"]
