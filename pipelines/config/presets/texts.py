"""Your text: SmolLM2-135M gets layers that remember what it has read, and is asked about a manual. The paper has no
figure for it.

`--set task=text task.path=...` gives the text. Until then the task is Recall, which needs none.
"""

from __future__ import annotations

from dataclasses import replace

from datagen import Recall
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets import bases
from pipelines.config.pretrained import Pretrained
from pipelines.config.variant import Variant
from sleepmodel import TrainConfig

WINDOW = 64


def text_mini() -> Experiment:
    """The model before and after a short training of its new layers."""
    return _experiment("text-mini", (Variant(name="before", share_of_steps=0), Variant(name="n2", sleep_passes=2)))


def positions_mini() -> Experiment:
    """Nats by position for N = 1, 2 and 4, under hard and sliding eviction, against attention with its whole cache and
    with an evicted one; and the model before the training.

    N is drawn for each batch, so that one model is evaluated at each N: a difference between two N is that of the
    passes alone, not of two trainings.
    """
    controls = (
        Variant(name="evicted"),
        Variant(name="sliding", eviction="sliding"),
        Variant(name="whole", whole=True),
    )
    drawn = Variant(name="sleep", drawn_passes=(1, 2, 4))
    return _experiment(
        "text-positions-mini",
        (
            *(replace(each, name=f"before-{each.name}", share_of_steps=0) for each in controls),
            *(replace(each, name=f"transformer-{each.name}", inserted_mixer="attention") for each in controls),
            drawn,
            replace(drawn, name="sleep-sliding", eviction="sliding"),
        ),
    )


def _experiment(name: str, variants: tuple[Variant, ...]) -> Experiment:
    pretrained = Pretrained(source=bases.SMOLLM2_SOURCE, insert=(12, 15, 18, 21, 24))
    sizes = {"fast_heads": 9, "key_dim": 64, "value_dim": 64}
    return Experiment(
        name=name,
        task=Recall(passage=48, cue=8, span=WINDOW),
        model=bases.grown(bases.SMOLLM2, pretrained, window=WINDOW, sleep_on="all", loop=(13, 30), **sizes),
        pretrained=pretrained,
        train=TrainConfig(
            steps=30,
            batch_size=2,
            trained="inserted",
            optimizer="adamw",
            adam_lr=6e-3,
            warmup_steps=5,
            validate_every=30,
        ),
        variants=variants,
        seeds=(30,),
        data=Data(validation_rows=8, test_rows=32, seed=5),
    )
