"""A model as a directory: config.json and model.safetensors. No pickle is read or written."""

from __future__ import annotations

import json
from pathlib import Path

from sleepmodel.config import ModelConfig
from sleepmodel.model import SleepModel

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.json"


def save(model: SleepModel, directory: Path) -> None:
    """Write config, weights and, where it is known, the vocabulary into `directory`, which is made."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=2))
    if model.vocabulary is not None:
        (directory / VOCABULARY).write_text(json.dumps(model.vocabulary))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, directory / WEIGHTS)


def load(source: str | Path) -> SleepModel:
    """The model in a directory that `save` wrote, or in the MLflow registry ("models:/sleep-rule110@champion").

    It is on the CPU, in evaluation mode. Raises FileNotFoundError where there is no model, ValueError where config
    and weights do not fit together.
    """
    if str(source).startswith("models:/"):
        from sleepmodel.tracking import download_model

        source = download_model(str(source))
    directory = Path(source)
    if not (directory / CONFIG).is_file():
        raise FileNotFoundError(f"{directory}: no model here (no {CONFIG}); give a directory that `save` wrote")
    from safetensors.torch import load_file

    model = SleepModel(ModelConfig.from_dict(json.loads((directory / CONFIG).read_text())))
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{directory}: {WEIGHTS} is not the model of {CONFIG}: {error}") from error
    if (directory / VOCABULARY).is_file():
        model.vocabulary = tuple(json.loads((directory / VOCABULARY).read_text()))
    return model.eval()
