"""Facts: how many facts does a sleep hold? The paper has no figure for it."""

from __future__ import annotations

from datagen import Facts
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import HYBRID, at_full_eta
from sleepmodel import ModelConfig, TrainConfig


def capacity_mini() -> Experiment:
    """Accuracy by the number of facts, in a document of two windows, for states of several sizes, rules, eta and N.
    `n1` has a state of 4 kB (one head of 32 x 32 in float32) and eta = 2."""
    task = Facts(
        facts=(4, 8, 16, 32),
        questions=4,
        question_kinds=("recall",),
        context_length=192,
        span=96,
        relations=1,
        forms=1,
        name_words=1,
    )
    sizes = {
        "8kb-2-heads": {"fast_heads": 2},
        "16kb-4-heads": {"fast_heads": 4},
        "16kb": {"key_dim": 64, "value_dim": 64},
    }

    return Experiment(
        name="facts-capacity-mini",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary),
            d_model=64,
            n_heads=2,
            mixers=HYBRID,
            window=task.span,
            fast_heads=1,
            key_dim=32,
            value_dim=32,
            conv=4,
        ),
        train=TrainConfig(steps=2000, batch_size=32, validate_every=200),
        variants=(
            at_full_eta("n1"),
            at_full_eta("n2", passes=2),
            *(at_full_eta(name, model=size) for name, size in sizes.items()),
            at_full_eta("eta-1", fast_weight_lr=1.0),
            *(at_full_eta(rule, mixers=("attention", rule)) for rule in ("delta", "linear")),
            at_full_eta("transformer-evicted", mixers=("attention", "attention")),
        ),
        seeds=(30,),
        data=Data(seed=11, test_rows=2048),
    )
