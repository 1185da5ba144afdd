"""GSM-Infinite (paper, figs. 4 to 6): with the paper's pretrained models, and from scratch at its size and ours."""

from __future__ import annotations

from dataclasses import replace

from datagen import Gsm
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets import bases
from pipelines.config.presets.variants import (
    HYBRID,
    at_full_eta,
    at_passes,
    at_windows,
    controls,
    grown,
    new_blocks_first,
    paper_train,
    transformers,
)
from pipelines.config.pretrained import Pretrained
from pipelines.config.variant import Variant
from sleepmodel import ModelConfig, Scale, TrainConfig

PASSES = (1, 2, 4)


def fig4() -> Experiment:
    """Jet-Nemotron 2B, whose middle half is repeated (fig. 4, left). Nothing is inserted: it has fast weights."""
    task, pretrained = Gsm(), Pretrained(source=bases.JET_NEMOTRON_SOURCE)
    return Experiment(
        name="gsm-fig4",
        task=task,
        model=bases.grown(bases.JET_NEMOTRON, pretrained, window=2000, loop=(7, 21)),
        pretrained=pretrained,
        train=paper_train(700, 256, muon_lr=1e-3, validate_every=50),
        variants=(*at_passes(1, 2, 4, 6), Variant(name="n1-same-compute", compute_of=6)),
        seeds=(0,),
        data=Data(test_rows=1600, seed=5),
        # 4 rows at once: those of a whole batch would not fit into 80 GB
        scale=Scale(gpu=True, accumulation=64, recompute="both"),
        paper_scale=True,
    )


def fig4_ouro() -> Experiment:
    """Ouro 1.4B with six new layers, all blocks repeated (fig. 4, right). The paper does not tell where the new layers
    stand: here they are spread evenly, and add 8 % of weights (the paper: less than 10 %)."""
    pretrained = Pretrained(source=bases.OURO_SOURCE, insert=(3, 7, 11, 15, 19, 23))
    sizes = {"fast_heads": 16, "key_dim": 64, "value_dim": 128}
    return replace(
        fig4(),
        name="gsm-fig4-ouro",
        model=bases.grown(bases.OURO, pretrained, window=2000, **sizes),
        pretrained=pretrained,
        train=paper_train(1000, 256, muon_lr=1e-3, validate_every=50),
        variants=(
            Variant(name="transformer-evicted", inserted_mixer="attention"),
            *at_passes(1, 2, 4),
            Variant(name="n1-same-compute", compute_of=4),
        ),
    )


def sliding_fig5() -> Experiment:
    """Ouro under sliding eviction: an epoch of the new layers alone under hard eviction, two of everything."""
    ouro = fig4_ouro()
    return replace(
        ouro,
        name="gsm-sliding-fig5",
        model=replace(ouro.model, window=512, eviction="sliding"),
        # 200 steps are an epoch
        train=replace(paper_train(600, 256, muon_lr=1e-3, validate_every=50), rows=200 * 256),
        variants=new_blocks_first((1, 2, 4)),
    )


def fig4_scratch() -> Experiment:
    """More passes against every control, from random weights."""
    task = Gsm()
    return Experiment(
        name="gsm-fig4-scratch",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary),
            d_model=1536,
            n_heads=12,
            mixers=("attention", "jet") * 14,
            window=2000,
            loop=(7, 21),
            fast_heads=12,
            key_dim=96,
            value_dim=256,
        ),
        train=paper_train(10_000, 256, muon_lr=1e-3),
        variants=controls(4, depth=28, rule="jet") + at_passes(2, 4, 6),
        seeds=(0,),
        data=Data(test_rows=1600, seed=5),
        scale=Scale(gpu=True),
        paper_scale=True,
    )


def fig4_mini() -> Experiment:
    task = Gsm(operations=(1, 3), tokens=(192, 320))
    return Experiment(
        name="gsm-fig4-mini",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=128, fast_heads=1
        ),
        train=TrainConfig(steps=1000, batch_size=32, validate_every=100),
        variants=(*transformers(2), *at_passes(1, 2, 4)),
        seeds=(30,),
        data=Data(validation_rows=512, test_rows=1600, seed=5),
    )


def traces_mini() -> Experiment:
    """Two or three operations, in one window, whose most frequent number is seldom the answer: does it help to tell
    each pass which numbers can be known by then?"""
    task = Gsm(
        operations=(2, 3),
        tokens=(164, 203),
        numbers=20,
        distractors="short",
        reverse=False,
        theme="crazy_zootopia",
        names=8,
        traced=True,
    )

    untold = {"trace_weight": 0.0}
    return Experiment(
        name="gsm-traces-mini",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary),
            d_model=64,
            n_heads=4,
            mixers=HYBRID,
            window=200,  # the task's whole context
            fast_heads=2,
            conv=4,
        ),
        # most labels are of numbers that the text states, which the first pass soon knows
        train=TrainConfig(steps=1000, batch_size=16, validate_every=100, trace_weight=4.0),
        variants=(
            at_full_eta("n1", train=untold),
            at_full_eta("n1-same-compute", train=untold, compute_of=4),
            at_full_eta("n4", 4, train=untold),
            at_full_eta("n4-traces", 4),
            # one model for any N, whose passes a rule may end (benchmarks/halting.py)
            at_full_eta("any", 4, train=untold, drawn_passes=(1, 2, 3, 4), evaluated_at=(6, 8)),
        ),
        seeds=(30,),
        data=Data(validation_rows=512, test_rows=1600, seed=5),
    )


def sliding_fig5_scratch() -> Experiment:
    """Sliding eviction, starting from a transformer that is trained first."""
    paper = fig4_scratch()
    return replace(
        paper,
        name="gsm-sliding-fig5-scratch",
        model=replace(paper.model, window=512, eviction="sliding"),
        variants=grown(paper.model.mixers, inserted=tuple(range(1, 28, 2))),
    )


def sliding_fig5_mini() -> Experiment:
    mini = fig4_mini()
    return replace(
        mini,
        name="gsm-sliding-fig5-mini",
        model=replace(mini.model, mixers=HYBRID * 2, window=64, eviction="sliding"),
        train=replace(mini.train, steps=600),
        variants=grown(HYBRID * 2, inserted=(1, 3)),
    )


def throughput_fig6() -> Experiment:
    """Throughput: a few steps at every window and N. The report shows tokens/s."""
    paper = fig4_scratch()
    return replace(
        paper,
        name="throughput-fig6",
        task=Gsm(tokens=(8000, 8192)),
        model=replace(paper.model, window=1024),
        train=replace(paper.train, steps=20, batch_size=8, validate_every=10),
        variants=at_windows((1024, 2048, 4096), PASSES),
        registers=False,
    )


def throughput_fig6_mini() -> Experiment:
    return replace(
        fig4_mini(),
        name="throughput-fig6-mini",
        task=Gsm(tokens=(900, 1024)),
        train=TrainConfig(steps=60, batch_size=8, validate_every=6, warmup_steps=5),
        variants=at_windows((64, 128, 256, 512), PASSES),
        seeds=(0,),
        data=Data(validation_rows=16, test_rows=16, seed=5),
        # both cores, so that trainings run one at a time and do not slow each other
        scale=Scale(cpus_per_worker=2),
        registers=False,
    )
