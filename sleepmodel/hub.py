"""Load a trained model, or find a pretrained one, in a directory, an object store or the MLflow registry."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datagen.storage import as_path, local_copy
from datagen.tokenizer import TOKENIZER
from sleepmodel.config.model import ModelConfig
from sleepmodel.model import SleepModel
from sleepmodel.pretrained.reading import base_config, base_fields, from_pretrained, weight_files
from sleepmodel.serialization.model_dir import is_pretrained, load_directory
from sleepmodel.serialization.tensors import tensors_sha256

REGISTRY = "models:/"


def load(source: str | Path) -> SleepModel:
    """Load a model from a directory that `save` wrote, from an object store ("s3://bucket/model"), or from the MLflow
    registry ("models:/sleep-rule110@champion").

    The model is on the CPU, in evaluation mode. Raises FileNotFoundError if there is no model, ConnectionError if the
    registry does not answer, ValueError if a file is damaged, a weight is not finite, or config, weights and vocabulary
    do not match.
    """
    if str(source).startswith(REGISTRY):
        from sleepmodel.tracking.registry import model_files  # importing MLflow takes seconds

        with model_files(str(source)) as directory:
            return load_directory(directory)
    with local_copy(as_path(source)) as copy:
        if is_pretrained(copy):
            call = f"sleepmodel.from_pretrained({str(source)!r}, window=...)"
            raise ValueError(f"{source}: a model in Hugging Face's layout, which has no window; use {call}")
        return load_directory(copy)


@dataclass(frozen=True)
class Base:
    """A model to start from, as it was found.

    directory: where it is, on a disk or in an object store; fields: of ModelConfig, which it gives (`base_fields`);
    config: its own, whose window has no meaning if it is of Hugging Face's layout;
    weights: a checksum of its tensors; tokenizer: `directory`, if a tokenizer.json lies there.
    """

    directory: str
    fields: dict[str, Any]
    config: ModelConfig
    weights: str
    tokenizer: str | None


@functools.lru_cache(maxsize=4)
def find_base(source: str) -> Base:
    """Find a model to start from, of Hugging Face's layout or one that `save` wrote. It is read once a process, so an
    alias of the registry stands for the version that it named then.

    Raises FileNotFoundError if there is no model, ConnectionError if the registry or the store does not answer,
    ValueError if a file is damaged, or if a registered model's files are not on a disk.
    """
    if source.startswith(REGISTRY):
        from sleepmodel.tracking.registry import model_directory

        directory = str(model_directory(source))
    else:
        directory = source
    with local_copy(as_path(directory)) as copy:
        tokenizer = directory if (copy / TOKENIZER).is_file() else None
        weights = tensors_sha256(weight_files(copy))
        return Base(directory, base_fields(copy), base_config(copy, window=2), weights, tokenizer)


def load_base(directory: str, window: int, weights: str | None = None) -> SleepModel:
    """Load a model to start from: as `load`, or from a directory of Hugging Face's layout, with this window.

    weights: the checksum that `find_base` found; None: any. Raises the errors of `load` and `from_pretrained`, and
    ValueError if the weights have changed.
    """
    with local_copy(as_path(directory)) as copy:
        if weights is not None and tensors_sha256(weight_files(copy)) != weights:
            raise ValueError(f"{directory}: its weights have changed since the run began; run the same command again")
        return from_pretrained(copy, window) if is_pretrained(copy) else load_directory(copy)
