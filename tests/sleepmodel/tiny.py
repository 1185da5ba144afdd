"""The smallest task, model and training that do all that large ones do."""

from dataclasses import replace

from datagen import Rule110
from sleepmodel import ModelConfig, TrainConfig
from sleepmodel.config.training import Curriculum, Truncation

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

# a pass for each step, with a loss for each pass
TRACED = Rule110(6, 1, 3, 1, "all", frame=1, traced=True, stated=False, test_steps=(1, 8))
ITERATED = replace(MODEL, vocab_size=4, window=7, sleep_passes=4, max_positions=14, carry="token", reads_first=True)
TRACED_CONFIG = replace(
    CONFIG,
    trace_weight=0.5,
    curriculum=Curriculum(threshold=0.5, review=True, front=0.5, steps_per_pass=1),
    truncation=Truncation(every=2),
)
INSERTED = replace(MODEL, mixers=("attention", "gated_delta", "jet", "attention"), inserted=(1, 2))
