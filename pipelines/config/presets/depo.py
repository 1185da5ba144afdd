"""Depo (paper, fig. 3): the node that is k hops away."""

from __future__ import annotations

from typing import Any

from datagen import Depo
from pipelines.config.experiment import Data, Experiment, Variant
from pipelines.config.presets.variants import HYBRID, at_passes, controls, paper_train, transformers
from sleepmodel import ModelConfig, Scale, TrainConfig
from sleepmodel.config.training import Curriculum, Truncation

ETA = 2.0
OPENS = 0.96  # rows right; 99 % of their four answers
MEAN_PASSES = 4  # of the training of `iterated`, rounded down


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


def hops_mini() -> Experiment:
    """Cycles of 8 nodes whose names have one token: how many hops does a model learn with N passes, and with as many
    FLOPs in one?"""
    task = Depo(nodes=8, hops=4, queries=4, names=32, least=8, drawn="below", test_hops=(1, 2, 3, 4))

    def variant(name: str, passes: int = 1, **fields: Any) -> Variant:
        return Variant(name=name, sleep_passes=passes, fast_weight_lr=ETA, **fields)

    return Experiment(
        name="depo-hops-mini",
        task=task,
        model=_model(task, key_dim=32, value_dim=32),
        train=TrainConfig(
            steps=4000,
            batch_size=128,
            # rows right: 95 % of the answers
            curriculum=Curriculum(threshold=0.81, review=True),
        ),
        variants=(
            *(variant(f"n{n}", n) for n in (1, 2, 3, 4)),
            variant("n1-same-compute", compute_of=3),
            variant("n1-deep", repeat=2),
            variant("n3-without-conv", 3, conv=0),
            *transformers(2),
        ),
        seeds=(40,),
        data=Data(seed=11),
    )


def iterated() -> Experiment:
    """Each pass follows the cycle one hop further: training on k <= 4, tests up to k = 64; without each of its parts,
    and against one pass."""
    # k and 8 - k hops back are one answer on 8 nodes, and 8 hops none at all: hence also 5, 13, 29 and 61
    test_hops = (1, 2, 4, 5, 8, 13, 16, 29, 32, 61, 64)
    task = Depo(
        nodes=8,
        hops=4,
        queries=4,
        names=32,
        least=8,
        drawn="alike",
        stated=False,
        test_hops=test_hops,
        pointers=True,
        traced=True,
    )

    def variant(name: str, **fields: Any) -> Variant:
        return Variant(name=name, sleep_passes=task.hops + 1, fast_weight_lr=ETA, **fields)

    def one_pass(name: str, **fields: Any) -> Variant:
        """N = 1. Its rows state their hops; the next number of hops opens as above."""
        return Variant(
            name=name,
            fast_weight_lr=ETA,
            carry="hidden",
            reads_first=False,
            trace_weight=0.0,
            curriculum=Curriculum(threshold=OPENS, review=True, front=0.5),
            task={"stated": True, "traced": False, "test_hops": (1, 2, 3, 4)},
            **fields,
        )

    return Experiment(
        name="depo-iterated",
        task=task,
        model=_model(task, key_dim=64, value_dim=64, carry="token", reads_first=True),
        train=TrainConfig(
            steps=1500,
            batch_size=64,
            # a pass that is repeated has to be exact: the rate falls to 0 over the whole run
            decay_fraction=1.0,
            # the pointer, which alone moves, is one of four labels
            trace_weight=4.0,
            curriculum=Curriculum(threshold=OPENS, review=True, front=0.5, steps_per_pass=1),
            truncation=Truncation(every=2),
        ),
        variants=(
            variant("iterated"),
            variant("hidden", carry="hidden"),
            variant("untraced", trace_weight=0.0),
            variant("without-conv", conv=0),
            one_pass("one-pass"),
            one_pass("one-pass-compute", compute_of=MEAN_PASSES),
            one_pass("one-pass-deep", repeat=MEAN_PASSES),
        ),
        seeds=(40, 41, 42, 43, 44),
        data=Data(seed=11),
        champions=("iterated",),
    )


def _model(task: Depo, **fields: Any) -> ModelConfig:
    return ModelConfig(
        vocab_size=len(task.vocabulary),
        d_model=64,
        n_heads=2,
        mixers=HYBRID,
        window=task.context_length,
        fast_heads=2,
        conv=4,
        **fields,
    )
