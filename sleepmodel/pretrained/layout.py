"""Hugging Face's config.json and names of tensors, for each model type that is read, and what they are here."""

from __future__ import annotations

from typing import Any

from datagen.checks import require, require_whole, shortened
from sleepmodel.config.model import MAX_BLOCKS, ModelConfig, RopeScaling

TYPES = ("llama", "qwen2", "qwen3", "ouro", "jet_nemotron")
ROPE_TYPES = ("default", "llama3")
# fields that change nothing of what a model computes here. Ouro predicts after `total_ut_steps` passes over its blocks;
# here a prediction is one pass, and a sleep has as many as its config says.
_NEUTRAL = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "dtype",
    "early_exit_step",
    "early_exit_threshold",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "max_position_embeddings",
    "max_window_layers",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "total_ut_steps",
    "transformers.js_config",
    "transformers_version",
    "use_cache",
}
_READ = {
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
}
_SLIDING = {"layer_types", "sliding_window", "use_sliding_window"}
_READ_OF = {
    "llama": {"attention_bias", "mlp_bias"},
    "qwen2": _SLIDING,
    "qwen3": _SLIDING | {"attention_bias"},
    "ouro": _SLIDING,
    "jet_nemotron": {"layer_types", "efficient_attention_config"},
}
_ATTENTION = {"full_attention": "attention", "sliding_attention": "local_attention"}
_JET_LAYERS = {"attn": "attention", "swa": "local_attention", "jet": "jet_nemotron"}
_JET_FIXED = {"conv_size": (4,), "dconv_generator_reduction": (8,), "norm_eps": (1e-5, "1e-5")}

_TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "lm_head": "lm_head"}
_IN_BLOCK = {
    "mixer_norm": "input_layernorm",
    "mixer_post_norm": "input_layernorm_2",
    "mlp_norm": "post_attention_layernorm",
    "mlp_post_norm": "post_attention_layernorm_2",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
    "mixer.q": "self_attn.q_proj",
    "mixer.k": "self_attn.k_proj",
    "mixer.v": "self_attn.v_proj",
    "mixer.out": "self_attn.o_proj",
    "mixer.q_norm": "self_attn.q_norm",
    "mixer.k_norm": "self_attn.k_norm",
    "mixer.gate": "self_attn.g_proj",
    "mixer.beta": "self_attn.b_proj",
    "mixer.decay": "self_attn.a_proj",
    "mixer.norm": "self_attn.o_norm",
    "mixer.kernel_in": "self_attn.dynamic_conv1d.kernel_generator.w1",
    "mixer.kernel_out": "self_attn.dynamic_conv1d.kernel_generator.w2",
}
_PARAMETERS = {"mixer.A_log": "self_attn.A_log", "mixer.decay.bias": "self_attn.dt_bias"}


def tensor_names(parameters: list[str], blocks: list[int]) -> dict[str, str]:
    """Hugging Face's name of each of a model's parameters. blocks: the block of each of its layers; parameters of other
    blocks are left out."""
    layers = {block: layer for layer, block in enumerate(blocks)}
    names = {}
    for name in parameters:
        stem, _, leaf = name.rpartition(".")
        if stem in _TOP:
            names[name] = f"{_TOP[stem]}.{leaf}"
        else:
            _, block, inside = name.split(".", 2)
            if int(block) in layers:
                theirs = _PARAMETERS.get(inside) or f"{_IN_BLOCK[inside.removesuffix(f'.{leaf}')]}.{leaf}"
                names[name] = f"model.layers.{layers[int(block)]}.{theirs}"
    return names


def config_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of ModelConfig that a config.json gives. Raises ValueError on what this package does not compute."""
    kind = raw.get("model_type")
    require(kind in TYPES, "model_type", kind, f"one of {', '.join(TYPES)}")
    for name, value in raw.items():
        if value and name not in _NEUTRAL | _READ | _READ_OF[str(kind)]:
            trouble = f"is not known here and may change what a {kind} computes; remove it if it does not"
            raise ValueError(f"{name} = {shortened(repr(value))}: {trouble}")
    require(raw.get("hidden_act") == "silu", "hidden_act", raw.get("hidden_act"), "silu")
    require_whole("num_hidden_layers", raw.get("num_hidden_layers"), 1, MAX_BLOCKS)
    require(raw.get("rms_norm_eps") is not None, "rms_norm_eps", None, "stated: each library has a default of its own")
    bias = "all" if raw.get("attention_bias") else "none"
    width, heads, kv_heads, size = (
        raw.get(name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")
    )
    follows = isinstance(size, int) and isinstance(heads, int) and heads * size == width
    return {
        "vocab_size": raw.get("vocab_size"),
        "d_model": width,
        "n_heads": heads,
        # None where it follows from the others, so that one model has one config, however it is written
        "kv_heads": None if kv_heads == heads else kv_heads,
        "head_dim": None if follows else size,
        "attention_bias": "qkv" if kind in ("qwen2", "jet_nemotron") else bias,
        "qk_norm": "learned" if kind == "qwen3" else "none",
        "mlp": "swiglu",
        "mlp_width": raw.get("intermediate_size"),
        "mlp_bias": bool(raw.get("mlp_bias")),
        "norm_eps": raw.get("rms_norm_eps"),
        "sandwich_norms": kind == "ouro",
        "loop_norm": kind == "ouro",
        "tied": bool(raw.get("tie_word_embeddings")),
        **_rope_fields(raw),
        **(_jet_fields(raw) if kind == "jet_nemotron" else _layer_fields(raw)),
    }


def _rope_fields(raw: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_theta": raw.get("rope_theta", 10_000.0)}
    for name in ("rope_scaling", "rope_parameters"):  # the form of transformers 4, that of transformers 5
        given = raw.get(name) or {}
        require(isinstance(given, dict), name, given, "a set of fields, or null")
        rope |= given
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    reason = "others cannot be turned by whole positions, as sliding eviction does, or are not known here"
    require(kind in ROPE_TYPES, "rope_type", kind, f"{' or '.join(ROPE_TYPES)}; {reason}")
    part = rope.pop("partial_rotary_factor", 1.0)
    require(part == 1.0, "partial_rotary_factor", part, "1")
    fields = {"rope_base": rope.pop("rope_theta")}
    if kind == "llama3":
        positions = rope.pop("original_max_position_embeddings", None)
        try:
            fields["rope_scaling"] = RopeScaling(**rope, original_positions=positions)
        except TypeError as error:
            raise ValueError(f"rope_scaling: not that of Llama 3: {error}") from error
    elif any(rope.values()):
        raise ValueError(f"rope_scaling: {', '.join(rope)} has no meaning for rope_type = {kind!r}")
    return fields


def _layer_fields(raw: dict[str, Any]) -> dict[str, Any]:
    layers = range(raw["num_hidden_layers"])
    span = raw.get("sliding_window") if raw.get("use_sliding_window") else None
    first = raw.get("max_window_layers", 28) if span is not None else len(layers)
    require_whole("max_window_layers", first, 0)
    types = raw.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in layers]
    return {"mixers": _mixers(types, _ATTENTION, len(layers)), "local_span": span}


def _jet_fields(raw: dict[str, Any]) -> dict[str, Any]:
    efficient = raw.get("efficient_attention_config")
    known = isinstance(efficient, dict) and all(isinstance(each, dict) for each in efficient.values())
    require(known, "efficient_attention_config", efficient, "the sizes of the layers jet and swa")
    jet, swa = dict(efficient.get("jet", {})), dict(efficient.get("swa", {}))  # type: ignore[union-attr]
    for name, values in _JET_FIXED.items():
        given = jet.pop(name, values[0])
        require(given in values, name, given, str(values[0]))
    heads, size, expand = jet.pop("num_heads", 6), jet.pop("head_dim", 256), jet.pop("expand_v", 2.0)
    require_whole("head_dim", size, 1, 2**16)
    require(type(expand) in (int, float) and 0 < expand <= 64, "expand_v", expand, "a number above 0, and at most 64")
    for name in ("mode", "dconv_implementation"):  # which kernel computes it
        jet.pop(name, None)
    span = swa.pop("window_size", None)
    require(not jet and not swa, "efficient_attention_config", {**jet, **swa}, "without fields that are not known here")
    mixers = _mixers(raw.get("layer_types"), _JET_LAYERS, raw["num_hidden_layers"])
    return {"mixers": mixers, "local_span": span, "fast_heads": heads, "key_dim": size, "value_dim": int(size * expand)}


def _mixers(types: object, known: dict[str, str], layers: int) -> tuple[str, ...]:
    whole = isinstance(types, list) and len(types) == layers and all(each in list(known) for each in types)
    require(whole, "layer_types", types, f"a list of num_hidden_layers = {layers}, each one of {', '.join(known)}")
    return tuple(known[each] for each in types)  # type: ignore[attr-defined]


def config_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model of a type that transformers has. Raises ValueError if it has none like it."""
    kind = _model_type(config)
    fields: dict[str, Any] = {
        "architectures": [{"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind] + "ForCausalLM"],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.mlp_size,
        "num_hidden_layers": len(config.mixers),
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads or config.n_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "rope_scaling": None,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
    }
    if (scaling := config.rope_scaling) is not None:
        fields["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_positions,
        }
    if kind != "qwen2":
        fields["attention_bias"] = config.attention_bias == "all"
    if kind == "llama":
        return {**fields, "mlp_bias": config.mlp_bias}
    theirs = {ours: name for name, ours in _ATTENTION.items()}
    fields["layer_types"] = [theirs[mixer] for mixer in config.mixers]
    return {**fields, "use_sliding_window": config.local_span is not None, "sliding_window": config.local_span}


def _model_type(config: ModelConfig) -> str:
    own = {
        "inserted": config.inserted != (),
        "mixers": not set(config.mixers) <= set(_ATTENTION.values()),
        "mlp": config.mlp != "swiglu",
        "norm_eps": config.norm_eps is None,
        "max_positions": config.max_positions is not None,
        "sandwich_norms": config.sandwich_norms,
        "loop_norm": config.loop_norm,
        "pass_embed": config.pass_embed,
    }
    if found := [field for field, has in own.items() if has]:
        raise ValueError(f"{found[0]} = {getattr(config, found[0])}: transformers has no such model; use `save`")
    plain, local = config.attention_bias in ("none", "all"), "local_attention" in config.mixers
    if config.qk_norm == "none" and plain and not local:
        return "llama"
    if config.qk_norm == "none" and config.attention_bias == "qkv" and not config.mlp_bias:
        return "qwen2"
    if config.qk_norm == "learned" and plain and not config.mlp_bias:
        return "qwen3"
    names = ("qk_norm", "attention_bias", "mlp_bias", "mixers")
    together = ", ".join(f"{name} = {getattr(config, name)}" for name in names)
    raise ValueError(f"{together}: together in no type of model that transformers has; use `save`")
