"""Facts: how many facts does a sleep hold? The paper has no figure for it."""

from __future__ import annotations

from datagen import Facts
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import HYBRID, at_passes, transformers
from sleepmodel import ModelConfig, TrainConfig


def capacity_mini() -> Experiment:
    """Accuracy against the number of facts, in a document of two windows."""
    task = Facts(
        facts=(4, 8),
        questions=4,
        question_kinds=("recall",),
        context_length=56,
        span=28,
        relations=1,
        forms=1,
        name_words=1,
    )
    return Experiment(
        name="facts-capacity-mini",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=task.span, fast_heads=1
        ),
        train=TrainConfig(steps=6000, batch_size=64, validate_every=200),
        variants=(*transformers(2), *at_passes(1, 2, 4)),
        seeds=(30,),
        data=Data(seed=11),
    )
