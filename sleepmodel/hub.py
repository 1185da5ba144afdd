"""Load a trained or pretrained model from a directory, an object store or the MLflow registry."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datagen.storage import as_path, local_copy
from sleepmodel.model import SleepModel
from sleepmodel.pretrained.reading import base_fields, base_license, from_pretrained, is_pretrained, weight_files
from sleepmodel.serialization.model_dir import load_directory
from sleepmodel.serialization.tensors import tensors_sha256


def load(source: str | Path) -> SleepModel:
    """Load a model from a directory that `save` wrote, from an object store ("s3://bucket/model"), or from the MLflow
    registry ("models:/sleep-rule110@champion").

    The model is on the CPU, in evaluation mode. Raises FileNotFoundError if there is no model, ConnectionError if the
    registry does not answer, ValueError if a file is damaged, a weight is not finite, or config, weights and vocabulary
    do not match.
    """
    with model_files(source) as directory:
        if is_pretrained(directory):
            call = f"sleepmodel.from_pretrained({str(source)!r}, window=...)"
            raise ValueError(f"{source}: a model in Hugging Face's layout, which has no window; use {call}")
        return load_directory(directory)


def load_base(source: str | Path, window: int) -> SleepModel:
    """Load a model to start from: as `load`, or from a directory of Hugging Face's layout, with this window. Raises the
    errors of both."""
    with model_files(source) as directory:
        return from_pretrained(directory, window) if is_pretrained(directory) else load_directory(directory)


def read_base(source: str | Path) -> dict[str, Any]:
    """`base_fields` of a model to start from, wherever it lies."""
    with model_files(source) as directory:
        return base_fields(directory)


def read_license(source: str | Path) -> str | None:
    """`base_license` of a model to start from, wherever it lies."""
    with model_files(source) as directory:
        return base_license(directory)


@functools.lru_cache(maxsize=8)
def weights_sha256(source: str) -> str:
    """What identifies the weights of a model to start from, in hex; see `tensors_sha256`."""
    with model_files(source) as directory:
        return tensors_sha256(weight_files(directory))


@contextmanager
def model_files(source: str | Path) -> Iterator[Path]:
    """Yields the directory of a model's files, or of a temporary copy of them. Raises the errors of `load`."""
    if str(source).startswith("models:/"):
        from sleepmodel.tracking.registry import download_model  # importing MLflow takes seconds

        yield download_model(str(source))
    else:
        with local_copy(as_path(source)) as copy:
            yield copy
