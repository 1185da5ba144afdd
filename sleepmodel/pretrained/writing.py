"""Write a model as a directory that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from datagen.checks import require_whole
from datagen.files import replacing
from datagen.storage import as_path
from sleepmodel.model import SleepModel
from sleepmodel.pretrained.layout import config_json, tensor_names
from sleepmodel.pretrained.reading import INDEX
from sleepmodel.serialization.model_dir import CONFIG, WEIGHTS, is_pretrained
from sleepmodel.serialization.tensors import write_tensors

SHARD_BYTES = 5 * 10**9


def save_pretrained(model: SleepModel, directory: str | Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write config.json and weights as transformers reads them, of type llama, qwen2 or qwen3, to a directory or to
    "s3://bucket/prefix". Tied weights are written once. Window, eviction and passes have no place there: `save` keeps
    them.

    shard_bytes: a file is at most as large, unless it holds a single tensor; several get an index. Raises ValueError,
    before anything is written, if transformers has no such model, as with inserted blocks, or if the directory holds
    a model that `save` wrote, or other weights; OSError if a file cannot be written.
    """
    directory = as_path(directory)
    require_whole("shard_bytes", shard_bytes, 1, 2**62)
    config = config_json(model.config)
    weights = model.state_dict()
    names = tensor_names(list(weights), list(range(len(model.blocks))))
    shards = _shards({names[ours]: tensor for ours, tensor in weights.items()}, shard_bytes)
    index = {"metadata": {"total_size": sum(weight.nbytes for weight in weights.values())}}
    texts = {CONFIG: config}
    if len(shards) > 1:
        texts[INDEX] = {**index, "weight_map": {name: file for file, tensors in shards.items() for name in tensors}}
    if (directory / CONFIG).is_file() and not is_pretrained(directory):
        raise ValueError(f"{directory}: holds a model that `save` wrote, which would be lost; give another directory")
    for file in directory.glob("*.safetensors*") if directory.is_dir() else ():
        if file.name not in {*shards, *texts}:
            raise ValueError(f"{directory}: holds {file.name} of another model; give an empty directory")
    for name, tensors in shards.items():
        write_tensors(directory / name, tensors, {"format": "pt"})
    for name, fields in texts.items():
        with replacing(directory / name) as fresh:
            fresh.write_text(json.dumps(fields, indent=2) + "\n")


def _shards(tensors: dict[str, Tensor], most: int) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file, filled in their order."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > most:
            parts.append({})
            size = 0
        parts[-1][name] = tensor
        size += tensor.nbytes
    if len(parts) == 1:
        return {WEIGHTS: parts[0]}
    return {f"model-{i + 1:05}-of-{len(parts):05}.safetensors": part for i, part in enumerate(parts)}
