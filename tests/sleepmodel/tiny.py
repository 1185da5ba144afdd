"""The smallest task, model and training that do all that large ones do."""

from datagen import Rule110
from sleepmodel import ModelConfig, TrainConfig

TASK = Rule110(cells=6, states=1, steps=1)
MODEL = ModelConfig(
    vocab_size=3,
    d_model=16,
    n_heads=2,
    mixers=("attention", "gated_delta"),
    window=6,
    sleep_passes=2,
    fast_heads=1,
    key_dim=16,
    value_dim=16,
    max_positions=8,
)
CONFIG = TrainConfig(steps=12, batch_size=8, validate_every=4, warmup_steps=2)
