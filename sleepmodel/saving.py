"""A model as a directory: config.json and model.safetensors. No pickle is read or written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleepmodel.config import ModelConfig
from sleepmodel.model import SleepModel

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.json"
SUM = "sha256"  # of everything else in a safetensors file


def save(model: SleepModel, directory: Path) -> None:
    """Write config, weights and, where it is known, the vocabulary into `directory`, which is made; each file appears
    whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory / WEIGHTS, model.state_dict(), {})
    texts = {CONFIG: json.dumps(model.config.to_dict(), indent=2)}
    if model.vocabulary is not None:
        texts[VOCABULARY] = json.dumps(model.vocabulary)
    for name, text in texts.items():
        with _replacing(directory / name) as fresh:
            fresh.write_text(text)


def load(source: str | Path) -> SleepModel:
    """The model in a directory that `save` wrote, also in a store (s3://...), or in the MLflow registry
    ("models:/sleep-rule110@champion").

    It is on the CPU, in evaluation mode. Raises FileNotFoundError where there is no model, ValueError where a file is
    damaged, weights are not finite, or config, weights and vocabulary do not fit together.
    """
    if str(source).startswith("models:/"):
        from sleepmodel.tracking import download_model

        source = download_model(str(source))
    if "://" in str(source):
        # imported here, as a registered model takes this package with it, and nothing else
        from datagen.storage import as_path, local_copy

        with local_copy(as_path(source)) as copy:
            return load(copy)
    directory = Path(source)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory}: no model here (no {name}); give a directory that `save` wrote")
    try:
        config = ModelConfig.from_dict(_read_json(directory / CONFIG))
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG}: {error}; take another copy of the model") from error
    _, weights = read_tensors(directory / WEIGHTS)
    # on no device at first: a config that asks for more than the file holds must not get it
    with torch.device("meta"):
        model = SleepModel(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if wanted != found:
        name = min(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
        sizes = f"{name} must be {_size(wanted.get(name))}, is {_size(found.get(name))}"
        raise ValueError(f"{directory}: {WEIGHTS} is not the model of {CONFIG}: {sizes}; take both from one model")
    for name, tensor in weights.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{directory / WEIGHTS}: {name} is not finite; take an earlier model")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    if (directory / VOCABULARY).is_file():
        model.vocabulary = _read_vocabulary(directory / VOCABULARY, config.vocab_size)
    return model.eval()


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a safetensors file with `facts`, strings by name, and a checksum of all that it holds; it appears whole
    or not at all. Raises OSError where it cannot be written."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with _replacing(path) as fresh:
        save_file(tensors, fresh, {**facts, SUM: _checksum(tensors, facts)})


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The facts and tensors of a safetensors file, on the CPU.

    Raises ValueError where it is no such file, was cut, or has a checksum that is not its own: that guards against
    accidents, not against forgers. A file of other tools, without any fact, has none to check.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            facts, tensors = dict(file.metadata() or {}), {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, AttributeError) as error:  # AttributeError: a number type that torch lacks
        raise ValueError(f"{path}: not a whole safetensors file ({error}); take another copy of it") from error
    foreign = facts in ({}, {"format": "pt"})
    if not foreign and facts.pop(SUM, "") != _checksum(tensors, facts):
        raise ValueError(f"{path}: changed since it was written (its {SUM} differs); take another copy of it")
    return facts, tensors


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside `path`, whose file takes the place of `path` in the end, and goes where there was an error.

    As datagen.files has it; a registered model takes this package with it, and nothing else.
    """
    from safetensors import SafetensorError

    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield fresh
        fresh.replace(path)
    except (OSError, SafetensorError) as error:  # the latter is safetensors' form of the former
        raise OSError(
            f"{path} cannot be written ({error}); what stood there is as it was: make room, and run the same again"
        ) from error
    finally:
        fresh.unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor], facts: dict[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}".encode())
        if tensors[name].numel():
            digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_json(path: Path) -> Any:
    """Raises ValueError where the file holds no JSON."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deep to be read") from error


def _read_vocabulary(path: Path, size: int) -> tuple[str, ...]:
    try:
        words = _read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; take another copy of the model") from error
    if not isinstance(words, list) or len(words) != size or not all(isinstance(word, str) for word in words):
        raise ValueError(f"{path}: must be a list of vocab_size = {size} texts; take another copy of the model")
    return tuple(words)


def _size(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(list(shape))
