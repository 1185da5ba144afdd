"""Read a model from a directory of Hugging Face's layout, without transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datagen.checks import require
from datagen.storage import as_path, local_copy
from datagen.tokenizer import stored_tokenizer
from sleepmodel.blocks import Block
from sleepmodel.config.model import ModelConfig
from sleepmodel.model import SleepModel
from sleepmodel.pretrained.insertion import (
    attention_sources,
    check_init,
    check_insert,
    copy_attention,
    layer_blocks,
)
from sleepmodel.pretrained.layout import config_fields, tensor_names
from sleepmodel.serialization.model_dir import (
    CONFIG,
    MODEL_TYPE,
    WEIGHTS,
    checked_weights,
    is_pretrained,
    read_json,
    stated_license,
)
from sleepmodel.serialization.tensors import read_tensors, require_memory

FLOAT32_BYTES = 4
INDEX = "model.safetensors.index.json"
# of ModelConfig, which every use of a pretrained model chooses anew
SLEEP_FIELDS = (
    "window",
    "eviction",
    "sleep_passes",
    "sleep_on",
    "loop",
    "carry",
    "reads_first",
    "pass_embed",
    "fast_weight_lr",
)
FAST_SIZES = ("fast_heads", "key_dim", "value_dim", "conv")
EMBEDDING, READOUT = "model.embed_tokens.weight", "lm_head.weight"
# of Ouro's early exit, which is not used here, and of old files of Llama, which hold RoPE's frequencies
_LEFT_OUT = ("early_exit_gate.", "rotary_emb.inv_freq")


def from_pretrained(
    directory: str | Path,
    window: int,
    insert: Mapping[int, str] | None = None,
    init: str = "attention",
    **fields: Any,
) -> SleepModel:
    """Read a model of type llama, qwen2, qwen3, ouro or jet_nemotron.

    directory: of Hugging Face's layout, with config.json and *.safetensors, whole or in shards; it may be in an object
        store. window: L.
    insert: new layers without an MLP: {8: "jet"} puts one after layer 8 of the base, counted from 0, and so before
        layer 9. Their output projections are zero: the model computes what it did, to the last bit.
    init: "attention" copies the norm, q, k and v of the next attention layer into each new one (see
        `copy_attention`); "zero" leaves these random. Other weights of new layers are random in either case.
    fields: other fields of ModelConfig, such as sleep_passes, eviction, the fast_heads, key_dim and value_dim of the
        new layers, or `loop`, which counts blocks, the inserted ones among them.

    The model is float32, on the CPU, in evaluation mode; its `tokenizer` and `license` are those of the directory, if
    it has them. Raises FileNotFoundError if a file is missing, ValueError if one is damaged or not of such a model, if
    the weights do not fit the memory, or if `insert`, `init` or `fields` do not fit.
    """
    with local_copy(as_path(directory)) as copy:
        base = base_fields(copy)
        ours = "of Hugging Face's layout; load what `sleepmodel.save` wrote with sleepmodel.load"
        require(is_pretrained(copy), "directory", str(directory), ours)
        insert = {} if insert is None else insert
        config = hybrid_config(base, insert, {"window": window, **fields}, copy / CONFIG)
        check_init(init)
        # so that a config cannot allocate more memory than the files justify
        model = SleepModel.without_weights(config)
        sources = attention_sources(model, config.inserted) if init == "attention" else {}
        weights = _read_weights(copy, model, layer_blocks(insert, len(base["mixers"])))
        model.load_state_dict(weights, assign=True, strict=False)
        model.tokenizer, model.license = stored_tokenizer(copy), stated_license(copy)
    for number in config.inserted:
        model.blocks[number] = Block(config, number)
    if config.pass_embed:
        model.pass_embed = nn.Parameter(torch.zeros(config.d_model))
    copy_attention(model, sources)
    return model.eval()


def hybrid_config(
    base: Mapping[str, Any], insert: Mapping[int, str], fields: Mapping[str, Any], source: str | Path
) -> ModelConfig:
    """The config of a base with new layers.

    base: as of `base_fields`; insert: as in `from_pretrained`; fields: the others; source: the base's config.json,
    for errors. Raises ValueError as `from_pretrained`.
    """
    layers = len(base["mixers"])
    check_insert(insert, layers)
    blocks = layer_blocks(insert, layers)
    new = {blocks[layer] + 1: mixer for layer, mixer in sorted(insert.items())}
    mixers = new | dict(zip(blocks, base["mixers"], strict=True))
    inserted = sorted({*new, *(blocks[layer] for layer in base.get("inserted", ()))})
    given_by_base = {name for name, value in base.items() if value is not None} | {"inserted", "max_positions"}
    if twice := sorted(fields.keys() & given_by_base):
        raise ValueError(f"{twice[0]} = {fields[twice[0]]}: is given by {source} and `insert`; leave it out")
    theirs = base.get("conv")
    conv, own = fields.get("conv", theirs), "fast_heads" in base  # which a base without fast weights does not give
    require(conv == theirs or not own, "conv", conv, f"{theirs}, as in the fast weights of {source}")
    given = {"mixers": tuple(mixers[number] for number in range(len(mixers))), "inserted": tuple(inserted)}
    return ModelConfig.from_dict({**base, **fields, **given})


def base_fields(directory: Path) -> dict[str, Any]:
    """The fields of ModelConfig that a pretrained model gives: what it computes within a window.

    directory: of Hugging Face's layout, or one that `save` wrote; on a disk. Raises FileNotFoundError, or ValueError if
    its config.json is not of such a model.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{directory}: no model here (no {CONFIG}); give a directory of Hugging Face's layout")
    try:
        raw = read_json(path)
        if not isinstance(raw, dict):
            raise ValueError("is no set of fields")
        if MODEL_TYPE in raw:
            fields = config_fields(raw)
            ModelConfig(**fields)
        else:
            own = ModelConfig.from_dict(raw)
            fields = {each.name: getattr(own, each.name) for each in dataclasses.fields(own)}
            # the sizes of fast weights are those of new layers
            if not SleepModel.without_weights(own).has_fast_weights:
                fields = {name: value for name, value in fields.items() if name not in FAST_SIZES}
            elif own.conv is None:
                del fields["conv"]  # so that `hybrid_config` refuses one that is asked for
    except ValueError as error:
        raise ValueError(f"{path}: {error}; take another model, or another copy of it") from error
    return {name: value for name, value in fields.items() if name not in SLEEP_FIELDS}


def base_config(directory: Path, window: int) -> ModelConfig:
    """The config of a model to start from. directory, and errors: as of `base_fields`; window: L, if its layout is
    Hugging Face's, as a model that `save` wrote has its own."""
    if is_pretrained(directory):
        return hybrid_config(base_fields(directory), {}, {"window": window}, directory / CONFIG)
    return ModelConfig.from_dict(read_json(directory / CONFIG))


def _read_weights(directory: Path, model: SleepModel, blocks: list[int]) -> dict[str, Tensor]:
    """The base's weights by our names, float32."""
    found: dict[str, Tensor] = {}
    shards = weight_files(directory)
    new = (weight for i, block in enumerate(model.stack) if i not in blocks for weight in block.parameters())
    require_memory(shards, FLOAT32_BYTES, FLOAT32_BYTES * sum(weight.numel() for weight in new))
    for shard in shards:
        _, tensors = read_tensors(shard, foreign=True)
        if twice := found.keys() & tensors.keys():
            raise ValueError(f"{shard}: {min(twice)} is in another shard, too; take another copy of the model")
        found |= {name: tensor for name, tensor in tensors.items() if not any(part in name for part in _LEFT_OUT)}
    if model.config.tied and READOUT in found and EMBEDDING in found:  # some tools write tied weights twice
        readout, embedding = found.pop(READOUT), found[EMBEDDING]
        if not torch.equal(readout, embedding):
            raise ValueError(f"{directory}: {READOUT} is not {EMBEDDING}, but {CONFIG} has tie_word_embeddings = true")
    wanted = {name: weight for name, weight in model.state_dict(keep_vars=True).items() if name != "pass_embed"}
    names = tensor_names(list(wanted), blocks)
    weights = checked_weights(found, {theirs: wanted[ours] for ours, theirs in names.items()}, directory)
    # without those that have been converted
    return {ours: weights.pop(theirs).float() for ours, theirs in names.items()}


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model's directory, in order. Raises FileNotFoundError if one is missing, ValueError if
    their index is damaged."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    index = directory / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"{directory}: no weights here ({WEIGHTS} or {INDEX}); only safetensors are read")
    remedy = "take another copy of the model"
    try:
        content = read_json(index)
    except ValueError as error:
        raise ValueError(f"{index}: {error}; {remedy}") from error
    listed = content.get("weight_map") if isinstance(content, dict) else None
    files = set(listed.values()) if isinstance(listed, dict) and all(map(_is_name, listed.values())) else set()
    if not files:
        raise ValueError(f"{index}: must have a weight_map from tensors to files beside it; {remedy}")
    for name in sorted(files):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"{directory / name}: this shard is missing; {remedy}")
    return [directory / name for name in sorted(files)]


def _is_name(file: object) -> bool:
    """Whether it is the name of a file in the same directory."""
    return isinstance(file, str) and file.endswith(".safetensors") and Path(file).name == file
