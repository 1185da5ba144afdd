"""A model as a directory: config.json and model.safetensors. No pickle is read or written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datagen.files import write_texts
from datagen.storage import as_path, check_reachable
from datagen.tokenizer import FILES as TOKENIZER_FILES
from datagen.tokenizer import stored_tokenizer
from sleepmodel.config.model import MIXERS, ModelConfig
from sleepmodel.mixers import mixer_class
from sleepmodel.model import SleepModel
from sleepmodel.serialization.tensors import read_tensors, require_memory, write_tensors

CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.json"
MODEL_TYPE = "model_type"  # Hugging Face's config.json has it, ours not
LICENSE, CARD = "base_license.txt", "README.md"  # of ours, and of Hugging Face's directories


def save(model: SleepModel, directory: str | Path) -> None:
    """Write config and weights, and the vocabulary, tokenizer and base's licence of a model that has them, to a
    directory, which is created if necessary, or to "s3://bucket/prefix". Files of another model that this one does not
    have are removed.

    Each file is written atomically; of several writers the last wins. Raises ValueError, before anything is written, if
    the directory holds a model of Hugging Face's layout; OSError if a file cannot be written.
    """
    directory = as_path(directory)
    check_reachable(directory)
    if is_pretrained(directory):
        raise ValueError(
            f"{directory}: holds a model in Hugging Face's layout, which would be lost; give another directory"
        )
    write_tensors(directory / WEIGHTS, model.state_dict(), {})
    texts = {} if model.tokenizer is None else model.tokenizer.files
    texts[CONFIG] = json.dumps(model.config.to_dict(), indent=2)
    if model.vocabulary is not None:
        texts[VOCABULARY] = json.dumps(model.vocabulary)
    if model.license is not None:
        texts[LICENSE] = model.license + "\n"
    write_texts(directory, texts, (VOCABULARY, LICENSE, *TOKENIZER_FILES))


def load_directory(directory: Path) -> SleepModel:
    """Load a model from a local directory that `save` wrote, on the CPU and in evaluation mode.

    Raises FileNotFoundError if there is no model, another OSError if a file cannot be read, ValueError if one is
    damaged, a weight is not finite, config, weights and vocabulary do not match, or the weights do not fit the memory.
    """
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory}: no model here (no {name}); give a directory that `save` wrote")
    try:
        config = ModelConfig.from_dict(read_json(directory / CONFIG))
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG}: {error}; take another copy of the model") from error
    require_memory([directory / WEIGHTS])
    _, weights = read_tensors(directory / WEIGHTS)
    # so that a config cannot allocate more memory than the file justifies
    model = SleepModel.without_weights(config)
    wanted = model.state_dict(keep_vars=True)  # which tells weights from buffers
    weights = checked_weights(weights, wanted, directory)
    dtypes = {str(weights[name].dtype) for name, tensor in wanted.items() if isinstance(tensor, nn.Parameter)}
    if len(dtypes) > 1:
        raise ValueError(f"{directory / WEIGHTS}: has weights of several dtypes, {sorted(dtypes)}; save it in one")
    model.load_state_dict(weights, assign=True)
    _make_own_mixers(model)
    if (directory / VOCABULARY).is_file():
        model.vocabulary = _read_vocabulary(directory / VOCABULARY, config.vocab_size)
    model.tokenizer, model.license = stored_tokenizer(directory), stated_license(directory)
    return model.eval()


def is_pretrained(directory: Path) -> bool:
    """Whether a directory, which may be in an object store, has Hugging Face's layout and not ours."""
    path = directory / CONFIG
    try:
        raw = read_json(path) if path.is_file() else None
    except ValueError:
        return False
    return isinstance(raw, dict) and MODEL_TYPE in raw


def stated_license(directory: Path) -> str | None:
    """The licence of the pretrained model that a model of ours began with, or that a model card, README.md, states at
    its head, as Hugging Face's do; None without one."""
    if (directory / LICENSE).is_file():
        return (directory / LICENSE).read_text(encoding="utf-8").strip()
    card = directory / CARD
    head = card.read_text(encoding="utf-8", errors="replace").split("---")[1:2] if card.is_file() else []
    for field in ("license_name", "license"):  # the first where the second is "other"
        if head and (found := re.search(rf"^{field}:[ \t]*([^\s#].*)$", head[0], re.MULTILINE)):
            return found.group(1).strip().strip("'\"")
    return None


def _make_own_mixers(model: SleepModel) -> None:
    """Make the mixers from outside the package anew, with their weights: on the meta device, tensors that are in no
    state_dict, such as buffers with persistent=False, have no values."""
    for block, name in zip(model.stack, model.config.mixers, strict=True):
        if name not in MIXERS:
            weights = block.mixer.state_dict()
            block.mixer = mixer_class(name)(model.config).to(block.mixer_norm.weight.dtype)
            block.mixer.load_state_dict(weights, assign=True)


def checked_weights(weights: dict[str, Tensor], wanted: Mapping[str, Tensor], directory: Path) -> dict[str, Tensor]:
    """The weights, and the buffers of mixers. wanted: those of the model, without values.

    Raises ValueError unless the names and shapes are the same, floating dtypes stand where floating ones do and other
    dtypes where the same one does, and the weights are finite. A buffer may hold any values, such as -inf in a mask.
    """
    sizes, found = ({name: each.shape for name, each in tensors.items()} for tensors in (wanted, weights))
    if sizes != found:
        name = min(name for name in {*sizes, *found} if sizes.get(name) != found.get(name))
        differ = f"{name} must be {_size(sizes.get(name))}, is {_size(found.get(name))}"
        raise ValueError(f"{directory}: {WEIGHTS} does not match {CONFIG}: {differ}; take both from one model")
    for name, tensor in weights.items():
        alike = tensor.is_floating_point() and wanted[name].is_floating_point()
        if not alike and tensor.dtype != wanted[name].dtype:
            kinds = f"{name} must be {wanted[name].dtype}, is {tensor.dtype}"
            raise ValueError(f"{directory}: {WEIGHTS} does not match {CONFIG}: {kinds}; take both from one model")
        if isinstance(wanted[name], nn.Parameter) and not tensor.isfinite().all():
            raise ValueError(f"{directory / WEIGHTS}: {name} has values that are not finite; take an earlier model")
    return weights


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError if the file is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error


def _read_vocabulary(path: Path, size: int) -> tuple[str, ...]:
    try:
        words = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; take another copy of the model") from error
    if not isinstance(words, list) or len(words) > size or not all(isinstance(word, str) for word in words):
        raise ValueError(
            f"{path}: must be a list of at most vocab_size = {size} strings; take another copy of the model"
        )
    return tuple(words)


def _size(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(list(shape))
