"""A small random model with a tokenizer: it takes text and says text, which means nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from datagen.tokenizer import Tokenizer
from sleepmodel import SleepModel
from tests.datagen.gsm.problems import train_tokenizer
from tests.sleepmodel.conftest import build_small

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def speaking_model(directory: Path, template: str | None = TEMPLATE, **fields: Any) -> SleepModel:
    """Its tokenizer is made in `directory`; the token 0, "<end>", ends what the model says."""
    train_tokenizer(directory)
    settings = {"eos_token": "<end>"} | ({} if template is None else {"chat_template": template})
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    model = build_small(dtype=torch.float32, **{"vocab_size": 600, "window": 24, "max_positions": None, **fields})
    model.tokenizer = Tokenizer.read(directory)
    return model.eval()
