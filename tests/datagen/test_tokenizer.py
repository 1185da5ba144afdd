"""A tokenizer is what its file holds, wherever it lies; datasets and models keep a copy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from datagen import Gsm
from datagen.gsm.importing import import_official
from datagen.schema import fingerprint
from datagen.tokenizer import Tokenizer, stored_tokenizer
from sleepmodel import load, save
from tests.datagen.gsm.problems import train_tokenizer
from tests.datagen.gsm.test_importing import official_lines
from tests.datagen.gsm.test_importing import write as write_lines
from tests.sleepmodel.conftest import build_small

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a pretrained model, without its weights."""
    here = tmp_path / "here"
    here.mkdir()
    train_tokenizer(here)
    (here / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "model_max_length": 64}))
    return here


def test_a_dataset_is_identified_by_the_tokens_that_it_is_made_of(directory: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(directory, tmp_path / "there"))
    assert Gsm(tokenizer=str(directory)).identity() == Gsm(tokenizer=str(there / "tokenizer.json")).identity()
    assert fingerprint(Gsm(tokenizer=str(directory)), 0) == fingerprint(Gsm(tokenizer=str(there)), 0)
    content = json.loads((there / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 600, "content": "<more>"})
    (there / "tokenizer.json").write_text(json.dumps(content))
    assert fingerprint(Gsm(tokenizer=str(directory)), 0) != fingerprint(Gsm(tokenizer=str(there)), 0)
    assert Gsm().identity()["tokenizer"] is None


def test_a_dataset_keeps_it(directory: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "problems.jsonl", official_lines(2))
    kept = stored_tokenizer(import_official(file, tmp_path, tokenizer=str(directory)))
    assert kept is not None and (kept.json, kept.chat_template) == (
        (directory / "tokenizer.json").read_text(),
        TEMPLATE,
    )
    assert stored_tokenizer(import_official(file, tmp_path)) is None


def test_a_model_keeps_it(directory: Path, tmp_path: Path) -> None:
    model = build_small(dtype=torch.float32)
    model.tokenizer = Tokenizer.read(directory)
    save(model, tmp_path / "model")
    kept = load(tmp_path / "model").tokenizer
    assert kept is not None and kept.chat_template == TEMPLATE
    text = "How many adult owl does Pine Ridge have?"
    assert kept.decode(kept.encode(text)) == text


def test_padding_of_a_vocabulary_has_no_text(directory: Path) -> None:
    tokenizer = Tokenizer.read(directory)
    ids = tokenizer.encode("Pine Ridge")
    assert tokenizer.decode([*ids, tokenizer.size, tokenizer.size + 7]) == "Pine Ridge"


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_damaged_settings_are_named(directory: Path, content: str) -> None:
    (directory / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: not JSON .*; take another copy of the tokenizer"):
        Tokenizer.read(directory)
