"""Depo (paper, fig. 3): the node that is k hops away."""

from __future__ import annotations

from datagen import Depo
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import HYBRID, at_passes, controls, paper_train, transformers
from sleepmodel import ModelConfig, Scale, TrainConfig


def fig3() -> Experiment:
    task = Depo()
    return Experiment(
        name="depo-fig3",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary),
            d_model=512,
            n_heads=8,
            mixers=("attention", "jet_nemotron") * 5,  # the paper's text; the caption of its figure says otherwise
            window=75,
            fast_heads=8,
        ),
        train=paper_train(100_000, 128),
        variants=controls(4, depth=10, rule="jet_nemotron") + at_passes(2, 4),
        seeds=(0,),
        scale=Scale(gpu=True),
        paper_scale=True,
    )


def fig3_mini() -> Experiment:
    """A small cycle, whose context is one window: with more nodes or hops, hours of training do not learn one hop."""
    task = Depo(nodes=6, hops=2, queries=4)
    return Experiment(
        name="depo-fig3-mini",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=24, fast_heads=1
        ),
        train=TrainConfig(steps=6000, batch_size=64, validate_every=200),
        variants=(*transformers(2)[:1], *at_passes(1, 2, 4)),
        seeds=(30,),
        data=Data(seed=11),
    )
