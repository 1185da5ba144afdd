"""Loading a trained model from wherever it is kept."""

from __future__ import annotations

from pathlib import Path

from sleepmodel.model import SleepModel
from sleepmodel.serialization.model_dir import load_directory


def load(source: str | Path) -> SleepModel:
    """The model in a directory that `save` wrote, in an object store ("s3://bucket/model"), or in the MLflow registry
    ("models:/sleep-rule110@champion").

    It is on the CPU, in evaluation mode. Raises FileNotFoundError where there is no model, ConnectionError where the
    registry does not answer, ValueError where a file is damaged, weights are not finite, or config, weights and
    vocabulary do not fit together.
    """
    if str(source).startswith("models:/"):
        from sleepmodel.tracking.registry import download_model  # importing MLflow takes seconds

        return load_directory(download_model(str(source)))
    if "://" in str(source):
        from datagen.storage import as_path, local_copy  # a registered model ships sleepmodel without datagen

        with local_copy(as_path(source)) as copy:
            return load_directory(copy)
    return load_directory(Path(source))
