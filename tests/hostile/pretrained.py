"""The files of a pretrained model, as surfaces."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sleepmodel import ModelConfig, Session, SleepModel, from_pretrained, save_pretrained
from sleepmodel.config.model import RopeScaling
from sleepmodel.pretrained.reading import INDEX
from sleepmodel.pretrained.smollm2 import convert
from sleepmodel.serialization.model_dir import CONFIG
from tests.hostile.surface import WRONG_JSON, Surface
from tests.sleepmodel.conftest import ARCHITECTURES
from tests.sleepmodel.pretrained.gguf_file import FACTS, llama, write_gguf


def _llama(place: Path) -> Path:
    if not (place / "llama").exists():
        fields = {"mixers": ("attention",), "qk_norm": "none", "mlp": "swiglu", "norm_eps": 1e-5, "tied": True}
        scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_positions=64)
        config = ModelConfig(vocab_size=3, d_model=8, n_heads=2, kv_heads=1, rope_scaling=scaling, **fields)
        save_pretrained(SleepModel(config), place / "llama", 300)
    return place / "llama"


def _pretrained_file(name: str) -> Surface:
    """One file of a model in shards, whose others are sound."""

    def read(content: bytes, place: Path) -> None:
        file = _llama(place) / name
        sound = file.read_bytes()
        try:
            file.write_bytes(content)
            model = from_pretrained(place / "llama", window=4)
        finally:
            file.write_bytes(sound)
        assert Session(model).read(torch.tensor([[0, 1, 2, 1, 0]])).isfinite().all()

    return Surface(
        lambda place: ((_llama(place) / name).read_bytes(),),
        read,
        (ValueError, FileNotFoundError),
        f"{name}.*take |take both|take another copy|no weights here",
    )


def _read_gguf(content: bytes, place: Path) -> None:
    """It has no checksum: what is read may be another Llama, or none that fits together, which is refused then."""
    (place / "model.gguf").write_bytes(content)
    convert(place / "model.gguf", place / "converted")
    from_pretrained(place / "converted", window=4)


def _gguf(place: Path) -> tuple[bytes, ...]:
    return (write_gguf(place / "sound.gguf", FACTS, llama()).read_bytes(),)


def _read_model_config(content: bytes, place: Path) -> None:
    config = ModelConfig.from_dict(json.loads(content))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def _model_configs(place: Path) -> tuple[bytes, ...]:
    configs = (ModelConfig(vocab_size=5, d_model=16, local_span=4, **fields) for fields in ARCHITECTURES.values())
    return tuple(json.dumps(config.to_dict()).encode() for config in configs)


PRETRAINED = {
    "model config": Surface(
        _model_configs, _read_model_config, (ValueError, RecursionError), WRONG_JSON + "|not a model"
    ),
    "pretrained config.json": _pretrained_file(CONFIG),
    "pretrained index": _pretrained_file(INDEX),
    "gguf": Surface(_gguf, _read_gguf, (ValueError,), r"model\.gguf.*|config\.json.*take |take both|take an"),
}
