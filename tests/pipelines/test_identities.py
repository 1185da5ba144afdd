"""What was trained and saved with an earlier version keeps its identity: the values here were recorded with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from datagen.canonical import added_later, fingerprint_of, identifying_fields
from pipelines.config.presets import PRESETS
from pipelines.engine.canonical import canonical
from sleepmodel import ModelConfig, SleepModel, save
from sleepmodel.accounting import fingerprint

# of the configs of all variants, before there were fields for pretrained models
CONFIGS = {
    "demo": "266958a8c0d23a6a",
    "smoke": "97e7596b8128929b",
    "rule110-fig2a": "46af8bca0b0efe4e",
    "rule110-fig2a-mini": "80964817474185aa",
    "rule110-fig2b": "263d85ee6be29b6c",
    "rule110-fig2b-mini": "8760ed8abf85a845",
    "rule110-rows-mini": "942ca7fbd0cb1cca",
    "rule110-by-t-mini": "397dfcf6a31f47fc",
    "depo-fig3": "4aacbbe3ce673bd9",
    "depo-fig3-mini": "5cb82975f1b435f7",
    "gsm-fig4": "c0b7ba5ed69ea4b6",
    "gsm-fig4-mini": "a5a50d48f794823e",
    "gsm-sliding-fig5": "a36579760502205f",
    "gsm-sliding-fig5-mini": "4ae2c92def929743",
    "throughput-fig6": "5715ebbd6657dca5",
    "throughput-fig6-mini": "ba91f3966ad9c284",
    "curriculum-mini": "f35ee891cdee7efb",
    "ablation-rule": "5741acf40e1d3fd5",
    "ablation-rule-mini": "2b930eab5853772b",
    "ablation-eta": "8b2ea6b717bc3611",
    "ablation-eta-mini": "566afc8860f9bfbd",
}
SAVED = {
    "vocab_size": 5,
    "d_model": 16,
    "n_heads": 2,
    "mixers": ["attention", "jet"],
    "window": 6,
    "eviction": "hard",
    "sleep_passes": 1,
    "loop": None,
    "fast_weight_lr": 1.0,
    "fast_heads": 2,
    "key_dim": 8,
    "value_dim": 8,
    "mlp_ratio": 4,
    "max_positions": 64,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_preset_trains_what_it_trained(name: str) -> None:
    experiment = PRESETS[name]
    configs = [
        [canonical(config(variant), variant.name) for config in (experiment.variant_model, experiment.variant_train)]
        for variant in experiment.variants
    ]
    assert fingerprint_of(configs) == CONFIGS[name]


def test_a_model_keeps_its_fingerprint_and_its_file(tmp_path: Path) -> None:
    model = SleepModel(ModelConfig.from_dict(SAVED))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    assert fingerprint(model) == "6656b9f40016f1a9"
    save(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == SAVED


def test_a_field_added_later_counts_once_it_is_used() -> None:
    @dataclass(frozen=True)
    class Recipe:
        steps: int = 3
        momentum: float = added_later(0.9)

    assert identifying_fields(Recipe()) == {"steps": 3}
    assert identifying_fields(Recipe(momentum=0.5)) == {"steps": 3, "momentum": 0.5}
    assert canonical(Recipe(), "") == {"$type": "Recipe", "steps": 3}
    assert canonical(Recipe(momentum=0.5), "") == {"$type": "Recipe", "steps": 3, "momentum": 0.5}
