"""Configs refuse what has no meaning and say which field, which value, and what is allowed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.artifact import Artifact
from sleepmodel import ModelConfig, Scale, TrainConfig
from sleepmodel.accounting import fingerprint
from sleepmodel.config.model import RopeScaling
from sleepmodel.config.training import Curriculum, Search, Truncation, check_compatible
from tests.sleepmodel.conftest import MakeModel

REQUIRED: dict[Any, dict[str, Any]] = {
    ModelConfig: {"vocab_size": 3},
    RopeScaling: {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_positions": 64},
}


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (ModelConfig, {"sleep_passes": 0}, "sleep_passes = 0: must be an integer of at least 1"),
        (ModelConfig, {"fast_weight_lr": 3.0}, r"fast_weight_lr = 3.0: must be a number in \(0, 2\]"),
        (ModelConfig, {"fast_weight_lr": 0.0}, r"fast_weight_lr = 0.0: must be a number in \(0, 2\]"),
        (ModelConfig, {"fast_weight_lr": float("nan")}, "fast_weight_lr = nan"),
        (ModelConfig, {"mixers": ()}, "mixers"),
        (ModelConfig, {"mixers": ("attention", "mamba")}, "mixers = .*mamba.*: must be .*attention, gated_delta"),
        (ModelConfig, {"d_model": 10, "n_heads": 4}, "d_model = 10: must be a multiple of .* 8"),
        (ModelConfig, {"window": True}, "window = True"),
        (ModelConfig, {"eviction": "soft"}, "eviction = 'soft': must be one of hard, sliding"),
        (ModelConfig, {"sleep_on": "answers"}, "sleep_on = 'answers': must be one of prompts, all"),
        (ModelConfig, {"loop": (2, 2)}, r"loop = \(2, 2\): must be null or two block numbers, 0 <= start < end <= 4"),
        (ModelConfig, {"loop": (0, 5)}, r"loop = \(0, 5\): must be .* end <= 4"),
        (ModelConfig, {"loop": 3}, "loop = 3: must be null or two block numbers"),
        (
            ModelConfig,
            {"mixers": ("attention", "jet"), "eviction": "sliding", "window": 2},
            "window = 2: must be at least 3 where jet",
        ),
        (ModelConfig, {"conv": 1}, "conv = 1: must be an integer of at least 2, and at most 16"),
        (ModelConfig, {"conv": 17}, "conv = 17: must be an integer of at least 2, and at most 16"),
        (
            ModelConfig,
            {"conv": 6, "eviction": "sliding", "window": 4},
            "window = 4: must be at least 5 where conv = 6 meets sliding eviction, .* takes in the 5 tokens before",
        ),
        (ModelConfig, {"n_heads": 4, "kv_heads": 3}, "kv_heads = 3: must be a divisor of n_heads = 4"),
        (ModelConfig, {"head_dim": 7}, "head_dim = 7: must be even"),
        (ModelConfig, {"head_dim": 0}, "head_dim = 0: must be an integer of at least 2"),
        (ModelConfig, {"qk_norm": "layer"}, "qk_norm = 'layer': must be one of unit, learned, none"),
        (ModelConfig, {"attention_bias": True}, "attention_bias = True: must be one of none, qkv, all"),
        (ModelConfig, {"mlp": "gelu"}, "mlp = 'gelu': must be one of relu2, swiglu"),
        (ModelConfig, {"mlp_width": 0}, "mlp_width = 0: must be an integer of at least 1"),
        (ModelConfig, {"tied": 1}, "tied = 1: must be true or false"),
        (ModelConfig, {"norm_eps": 0.0}, r"norm_eps = 0\.0: must be a number from 1e-30 to 1"),
        (ModelConfig, {"rope_base": float("nan")}, "rope_base = nan: must be a number"),
        (ModelConfig, {"rope_scaling": {"factor": 8.0}}, "rope_scaling = .*must be null or a RopeScaling"),
        (ModelConfig, {"mixers": ("local_attention",)}, "local_span = None: must be an integer of at least 2"),
        (ModelConfig, {"inserted": (4,)}, r"inserted = \(4,\): must be block numbers from 0 to 3, ascending"),
        (ModelConfig, {"inserted": (2, 1)}, r"inserted = \(2, 1\): must be block numbers"),
        (
            RopeScaling,
            {"high_freq_factor": 1.0},
            r"high_freq_factor = 1\.0: must be .* above low_freq_factor = 1\.0",
        ),
        (RopeScaling, {"factor": 0.5}, r"factor = 0\.5: must be a number from 1"),
        (RopeScaling, {"original_positions": 0}, "original_positions = 0: must be an integer of at least 1"),
        (TrainConfig, {"sleep_passes": (1, 0)}, "sleep_passes = 0: must be an integer of at least 1"),
        (Truncation, {"windows": 0}, "windows = 0: must be an integer of at least 1"),
        (Scale, {"recompute": "all"}, "recompute = 'all': must be one of nothing, block, pass, window, both"),
        (TrainConfig, {"steps": -1}, "steps = -1"),
        (TrainConfig, {"muon_lr": -1.0}, "muon_lr = -1.0"),
        (TrainConfig, {"precision": "float16"}, "precision = 'float16': must be one of float32, bfloat16"),
        (Scale, {"zero_stage": 4}, "zero_stage = 4: must be an integer of at least 0, and at most 3"),
        (Search, {"sleep_passes": ()}, "sleep_passes"),
        (Search, {"eta_high": 2.5}, r"eta_high = 2.5: must be a number in \(0, 2\]"),
        (Search, {"eta_low": 1.5, "eta_high": 1.0}, r"eta_low = 1.5: must be a number in \(0, eta_high = 1.0\]"),
    ],
)
def test_a_bad_field_is_named(cls: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**{**REQUIRED.get(cls, {}), **fields})


@given(
    st.sampled_from(["steps", "batch_size", "warmup_steps", "seed", "validate_every"]),
    st.none() | st.text() | st.floats(),
)
def test_no_count_takes_anything_but_an_integer(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} = "):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def saved(directory: Path, config: ModelConfig) -> Path:
    Artifact("config.json", ModelConfig).save(directory, config)
    return directory


def test_a_model_config_survives_json(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=7, mixers=("gated_delta",), sleep_passes=3, loop=(0, 1))
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    scaled = ModelConfig(vocab_size=7, rope_scaling=RopeScaling(**REQUIRED[RopeScaling]), inserted=(1,))
    assert ModelConfig.from_dict(json.loads(json.dumps(scaled.to_dict()))) == scaled
    assert Artifact("config.json", ModelConfig).load(saved(tmp_path, scaled)) == scaled
    with pytest.raises(ValueError, match="sleeps"):
        ModelConfig.from_dict({**config.to_dict(), "sleeps": 1})


def test_a_batch_must_split_over_workers_and_accumulation() -> None:
    with pytest.raises(ValueError, match=r"batch_size = 10: must be a multiple of workers \* accumulation = 4"):
        check_compatible(TrainConfig(batch_size=10), Scale(workers=2, accumulation=2))


def test_clipping_that_deepspeed_gets_wrong_is_refused() -> None:
    with pytest.raises(ValueError, match=r"grad_clip = 1\.0: must be 0 with zero_stage = 1"):
        check_compatible(TrainConfig(), Scale(zero_stage=1))


def test_a_momentum_that_deepspeed_rounds_is_refused() -> None:
    low = TrainConfig(grad_clip=0.0, precision="bfloat16_weights")
    check_compatible(low, Scale())
    check_compatible(replace(low, optimizer="adamw"), Scale(zero_stage=3))
    with pytest.raises(
        ValueError, match=r"optimizer = 'muon': must be adamw with precision = bfloat16_weights and zero"
    ):
        check_compatible(low, Scale(zero_stage=1))


def test_skipping_where_deepspeed_moves_the_momentum_is_refused() -> None:
    with pytest.raises(ValueError, match=r"skips = 2: must be 0 with zero_stage = 3 and muon"):
        check_compatible(TrainConfig(skips=2, grad_clip=0.0), Scale(zero_stage=3))
    check_compatible(TrainConfig(skips=2, grad_clip=0.0, optimizer="adamw"), Scale(zero_stage=3))
    check_compatible(TrainConfig(skips=2, grad_clip=0.0), Scale(zero_stage=2))


def test_a_captured_step_whose_norm_is_read_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda_graphs = 'step': must be auto, on or off with skips = 1"):
        check_compatible(TrainConfig(skips=1), Scale(cuda_graphs="step"))
    check_compatible(TrainConfig(skips=1), Scale(cuda_graphs="on"))
    check_compatible(TrainConfig(), Scale(cuda_graphs="step"))


def test_a_whole_number_is_the_float_that_it_equals(make_model: MakeModel) -> None:
    """Else a model of fast_weight_lr = 1 refused the memories of one of 1.0, and had another file."""
    scaling = {"factor": 2, "low_freq_factor": 1, "high_freq_factor": 4, "original_positions": 16}
    given = {"vocab_size": 5, "fast_weight_lr": 1, "rope_base": 50, "norm_eps": 1, "rope_scaling": scaling}
    whole, expected = ModelConfig.from_dict(given), {"fast_weight_lr": 1.0, "rope_base": 50.0, "norm_eps": 1.0}
    assert json.dumps({name: whole.to_dict()[name] for name in expected}) == json.dumps(expected)
    assert json.dumps(whole.to_dict()["rope_scaling"]) == json.dumps(
        {"factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_positions": 16}
    )
    one, other = (fingerprint(make_model(fast_weight_lr=eta)) for eta in (1, 1.0))
    assert one == other
    train = TrainConfig(weight_decay=1, trace_weight=4, curriculum=Curriculum(threshold=1, review=True, front=1))
    search = Search(eta_low=1, eta_high=2)
    floats = (train.weight_decay, train.trace_weight, train.curriculum.threshold, train.curriculum.front)
    assert all(type(value) is float for value in (*floats, search.eta_low, search.eta_high))
    assert type(train.steps) is int
