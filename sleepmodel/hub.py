"""Load a trained model from a directory, an object store or the MLflow registry."""

from __future__ import annotations

from pathlib import Path

from datagen.storage import as_path, local_copy
from sleepmodel.model import SleepModel
from sleepmodel.serialization.model_dir import load_directory


def load(source: str | Path) -> SleepModel:
    """Load a model from a directory that `save` wrote, from an object store ("s3://bucket/model"), or from the MLflow
    registry ("models:/sleep-rule110@champion").

    The model is on the CPU, in evaluation mode. Raises FileNotFoundError if there is no model, ConnectionError if the
    registry does not answer, ValueError if a file is damaged, a weight is not finite, or config, weights and vocabulary
    do not match.
    """
    if str(source).startswith("models:/"):
        from sleepmodel.tracking.registry import download_model  # importing MLflow takes seconds

        return load_directory(download_model(str(source)))
    with local_copy(as_path(source)) as copy:
        return load_directory(copy)
