"""A saved model is the model, and what is not one is refused."""

import json
from pathlib import Path

import pytest
import torch

from sleepmodel import load, save
from tests.sleepmodel.conftest import MakeModel


def test_a_loaded_model_computes_the_same_bits(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(dtype=torch.float32, sleep_passes=2, fast_weight_lr=1.5)
    save(model, tmp_path / "model")
    assert load(tmp_path / "model").vocabulary is None
    model.vocabulary = ("a", "b", "c", "d", "e")
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.vocabulary == model.vocabulary
    tokens = torch.randint(0, 5, (2, 14))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, 13] = True
    assert again.config == model.config
    assert torch.equal(again(tokens, mask).logits, model(tokens, mask).logits)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no model here"):
        load(tmp_path)


def test_weights_of_another_config_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    save(make_model(dtype=torch.float32), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "d_model": 32}))
    with pytest.raises(ValueError, match=r"model.safetensors does not match config.json"):
        load(tmp_path)
