"""Identities change only where it is meant: the values are of an earlier commit. Whoever records them anew says so in
the changelog, as finished work is then done again."""

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

# of the configs of all variants, recorded when trainings lost `fresh_steps`, or with a new preset
CONFIGS = {
    "demo": "c0432c174d77d5b3",
    "smoke": "9e06fe02c81d6c73",
    "rule110-fig2a": "a8ac4f7d2cee95bf",
    "rule110-fig2a-mini": "e4ea46cddfb02f56",
    "rule110-fig2b": "ab2914c494e3b0bb",
    "rule110-fig2b-mini": "8a11157dd8070c97",
    "rule110-rows-mini": "0659d5a2b9a2f339",
    "rule110-by-t-mini": "12f3a07f515b7218",
    "rule110-cells-mini": "a7316fec0e2fc509",
    "rule110-cells-by-t-mini": "5f2443fd9d830afa",
    "depo-fig3": "f3f6adfdaf095469",
    "depo-fig3-mini": "d4fd053f1b156ca4",
    "depo-hops-mini": "a4674cf527717e34",
    "depo-sizes-mini": "ec1690b3440298ef",
    "depo-iterated": "d55d487046860515",
    "depo-iterated-mini": "728a49d6981b2461",
    "depo-iterated-windows": "e379ffe7fc077023",
    "gsm-fig4": "18a4c6e2ad52536c",
    "gsm-fig4-ouro": "71cd49ad0c0877ef",
    "gsm-fig4-scratch": "b4661e6ee7cad2c2",
    "gsm-fig4-mini": "f970c2c573d6d406",
    "gsm-traces-mini": "35fb7bd5f26c4d9e",
    "gsm-sliding-fig5": "c3e8a160d07f0834",
    "gsm-sliding-fig5-scratch": "8cc980d5bd177085",
    "gsm-sliding-fig5-mini": "1eb6b4c09ad7a5c1",
    "retrofit-recall-mini": "ac62dfb2b4802370",
    "text-mini": "0f3f5238edb71752",
    "text-positions-mini": "9044e24682592075",
    "throughput-fig6": "a633a3ad14907764",
    "throughput-fig6-mini": "f2738cd92eb6d5e6",
    "facts-capacity-mini": "630c09095272d766",
    "curriculum-mini": "80fa38cee03dcd18",
    "rule110-iterated": "6264e4eec56c07c4",
    "rule110-iterated-mini": "4fd489a41a3b7e6a",
    "rule110-iterated-backward": "9a7dc6424f000b08",
    "ablation-rule": "dd62312141d84fac",
    "ablation-rule-mini": "956da3c3dec7fa14",
    "ablation-eta": "0856bf47eb8e788b",
    "ablation-eta-mini": "d2e2fcd41a8efcd8",
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


@pytest.mark.parametrize("name", PRESETS)
def test_the_configs_of_a_preset_keep_their_identity(name: str) -> None:
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
