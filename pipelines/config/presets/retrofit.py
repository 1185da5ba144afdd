"""Sleep for a pretrained model: new layers in SmolLM2-135M remember a passage after its window is gone."""

from __future__ import annotations

from datagen import Recall
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets import bases
from pipelines.config.pretrained import Pretrained
from pipelines.config.variant import Variant
from sleepmodel import TrainConfig


def recall_mini() -> Experiment:
    """Only the new layers are trained, alike in all variants. In the controls they are attention: one evicts its
    window, one keeps the whole row. The evaluation asks for passages that were read, and for others: their difference
    is memory, not adaptation to the text."""
    task = Recall(passage=24, cue=4, span=32)
    pretrained = Pretrained(source=bases.SMOLLM2_SOURCE, insert=(8, 11, 14, 17, 20))
    sizes = {"fast_heads": 9, "key_dim": 64, "value_dim": 64}
    attention = Variant(name="transformer-evicted", inserted_mixer="attention")
    return Experiment(
        name="retrofit-recall-mini",
        task=task,
        model=bases.grown(bases.SMOLLM2, pretrained, window=task.span, loop=(8, 26), **sizes),
        pretrained=pretrained,
        train=TrainConfig(
            steps=120,
            batch_size=8,
            trained="inserted",
            optimizer="adamw",
            adam_lr=6e-3,
            warmup_steps=10,
            validate_every=60,
        ),
        variants=(
            attention,
            Variant(name="transformer-whole", inserted_mixer="attention", whole=True),
            Variant(name="n1"),
            Variant(name="n2", sleep_passes=2),
        ),
        seeds=(30, 31, 32),
        data=Data(validation_rows=16, test_rows=256, seed=5),
    )
