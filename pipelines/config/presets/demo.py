"""The README's demonstration, and a smoke test that is too short to learn anything. No other preset builds on them."""

from __future__ import annotations

from datagen import Rule110
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import HYBRID
from pipelines.config.variant import Variant
from sleepmodel import ModelConfig, TrainConfig
from sleepmodel.config.training import Search


def demo() -> Experiment:
    """N = 1 and 2, and a search over N and eta, on one state of 16 cells after 6 steps."""
    return Experiment(
        name="demo",
        task=Rule110(cells=16, states=1, steps=6),
        model=ModelConfig(
            vocab_size=3, d_model=64, n_heads=2, mixers=HYBRID, window=16, fast_heads=1, max_positions=18
        ),
        train=TrainConfig(steps=600, validate_every=75),
        variants=(
            Variant(name="n1"),
            Variant(name="n2", sleep_passes=2),
            Variant(name="n1-same-compute", compute_of=2),
        ),
        seeds=(30, 31, 32),
        search=Search(trials=6),
        data=Data(seed=7),
    )


def smoke() -> Experiment:
    """Every stage of the demo in about two minutes."""
    return Experiment(
        name="smoke",
        task=Rule110(cells=16, states=1, steps=6),
        model=ModelConfig(
            vocab_size=3,
            d_model=16,
            n_heads=2,
            mixers=HYBRID,
            window=16,
            fast_heads=1,
            key_dim=16,
            value_dim=16,
            max_positions=18,
        ),
        train=TrainConfig(steps=20, batch_size=32, validate_every=10, warmup_steps=5),
        variants=(Variant(name="n1", evaluated_at=(2,)),),
        seeds=(20, 21),
        search=Search(trials=2, sleep_passes=(1, 2), grace=2),
        data=Data(seed=7, validation_rows=64, test_rows=256),
    )
