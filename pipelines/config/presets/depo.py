"""Depo (paper, fig. 3): the node that is k hops away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from datagen import Depo
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import (
    HYBRID,
    at_full_eta,
    at_passes,
    controls,
    fewer_seeds,
    iterated_train,
    one_pass,
    paper_train,
    transformers,
)
from pipelines.config.variant import Variant
from sleepmodel import ModelConfig, Scale, TrainConfig
from sleepmodel.config.training import Curriculum

OPENS = 0.85  # rows right; 96 % of their four answers
MEAN_PASSES = 4  # about that of the training of `iterated`: 4.25 when all levels are open, 2 to 3.5 before


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
    FLOPs in one? And with all hops from the start, as in the paper?"""
    task = Depo(nodes=8, hops=4, queries=4, names=32, least=8, drawn="below", test_hops=(1, 2, 3, 4))

    all_hops = {"task": {"drawn": "each"}, "curriculum": Curriculum()}
    evicted, whole = transformers(2)
    return Experiment(
        name="depo-hops-mini",
        task=task,
        model=_model(task, key_dim=32, value_dim=32),
        train=TrainConfig(
            steps=3000,
            batch_size=128,
            # rows right: 95 % of the answers
            curriculum=Curriculum(threshold=0.81, review=True),
        ),
        variants=(
            *(at_full_eta(f"n{n}", n) for n in (1, 2, 3)),
            at_full_eta("n1-same-compute", compute_of=3),
            at_full_eta("n4", 4),
            at_full_eta("n1-deep", repeat=2),
            # twice the blocks in as many parameters, with the FLOPs of N = 3
            at_full_eta("n1-deep-narrow", repeat=2, model={"d_model": 44}, compute_of=3),
            replace(evicted, most_seeds=3),  # at chance, and compared with nothing
            whole,
            *(at_full_eta(f"n{n}-uniform", n, **all_hops) for n in (1, 2, 4)),
            at_full_eta("n1-uniform-same-compute-epochs", 1, compute_of=4, epochs=True, **all_hops),
        ),
        seeds=(80,),
        data=Data(seed=11),
    )


def sizes_mini() -> Experiment:
    """`hops_mini` one size up, with up to 3 hops: 16 and 24 nodes, in one window and in several, and the official names
    of one or two tokens on 8 nodes. Where are hops no longer learned?"""
    base = hops_mini()
    task = Depo(nodes=16, hops=3, queries=4, names=32, least=16, drawn="below", test_hops=(1, 2, 3))
    variant = partial(at_full_eta, passes=3)
    more_nodes = {"nodes": 24, "least": 24}
    return replace(
        base,
        name="depo-sizes-mini",
        task=task,
        model=_model(task, key_dim=32, value_dim=32),
        variants=(
            variant("n1", passes=1),
            variant("n3"),
            variant("n3-two-windows", window=16),
            variant("n3-24-nodes", task=more_nodes, window=48),
            variant("n3-long-names", task={"nodes": 8, "least": 8, "names": None}, window=32),
        ),
    )


def iterated() -> Experiment:
    """Each pass follows the cycle one hop further: training on k <= 4, tests up to k = 64; without each of its parts,
    and against one pass."""
    # on 8 nodes, 8 hops lead back to the start: hence also 5, 13, 29 and 61, which lead to the third node before it
    test_hops = (1, 2, 4, 5, 8, 13, 16, 29, 32, 61, 64)
    task = _followed(nodes=8, names=32, hops=4, queries=4, test_hops=test_hops)
    controls = _one_pass(
        task,
        {"one-pass": {}, "one-pass-compute": {"compute_of": MEAN_PASSES}, "one-pass-deep": {"repeat": MEAN_PASSES}},
    )
    variants = fewer_seeds((*_passes_as_hops(task), *controls))
    return _iterated("depo-iterated", task, variants, seeds=(85, 86, 87, 88, 89), steps=2400, test_rows=5632)


def iterated_windows() -> Experiment:
    """Edges in two windows, and pointers in a third, one for each question: passes over the third follow the cycle."""
    task = _followed(
        nodes=16, names=32, hops=4, queries=6, pointers="questions", least=6, test_hops=(1, 2, 4, 8, 13, 16, 29, 32)
    )
    first, *_ = _passes_as_hops(task)
    controls = _one_pass(task, {"one-pass": {}, "one-pass-compute": {"compute_of": MEAN_PASSES}})
    variants = fewer_seeds((first, *controls))
    return _iterated("depo-iterated-windows", task, variants, seeds=(85, 86, 87, 88, 89), steps=3600, test_rows=4096)


def iterated_mini() -> Experiment:
    """The same on 5 nodes, with k <= 3 in training and tests up to k = 32."""
    task = _followed(nodes=5, names=10, hops=3, queries=4, test_hops=(1, 2, 3, 4, 8, 16, 32))
    variants = (
        *(variant for variant in _passes_as_hops(task) if variant.name in ("iterated", "hidden")),
        *_one_pass(task, {"one-pass": {}}),
    )
    return _iterated("depo-iterated-mini", task, variants, seeds=(80,), steps=800, test_rows=1400)


def _followed(nodes: int, pointers: Literal["edges", "questions"] = "edges", **fields: Any) -> Depo:
    """Cycles with pointers that passes move; the number of passes tells the hops. Small cycles show in training what
    many hops lead to on large ones, back to the start, and pointers that begin anywhere show all windows that passes
    lead to."""
    return Depo(nodes=nodes, drawn="alike", stated=False, pointers=pointers, ahead=nodes, traced=True, **fields)


def _passes_as_hops(task: Depo) -> tuple[Variant, ...]:
    """The model whose passes are hops, then without each of its parts."""
    variant = partial(at_full_eta, passes=task.hops + 1)
    return (
        variant("iterated"),
        variant("hidden", model={"carry": "hidden"}),
        variant("untraced", train={"trace_weight": 0.0}),
        variant("unmarked", model={"pass_embed": False}),
        variant("begin-at-next", task={"ahead": 1}),
        variant("without-conv", model={"conv": None}),
    )


def _one_pass(task: Depo, named: Mapping[str, Mapping[str, Any]]) -> tuple[Variant, ...]:
    """Controls with N = 1, whose rows state their hops. named: name -> fields of the variant."""
    curriculum = Curriculum(threshold=OPENS, review=True, front=0.5)
    told = {"stated": True, "traced": False, "ahead": 1, "test_hops": tuple(range(1, task.hops + 1))}
    return tuple(one_pass(name, curriculum, task=told, **own) for name, own in named.items())


def _iterated(
    name: str, task: Depo, variants: tuple[Variant, ...], seeds: tuple[int, ...], steps: int, test_rows: int
) -> Experiment:
    return Experiment(
        name=name,
        task=task,
        # keys of 32 numbers interfere: a second pass then stays at .98 (docs/diary.md)
        model=_model(task, key_dim=64, value_dim=64, carry="token", reads_first=True, pass_embed=True),
        # the pointer, which alone moves, is one of an edge's four labels
        train=iterated_train(steps, opens=OPENS, trace_weight=4.0),
        variants=variants,
        seeds=seeds,
        data=Data(seed=11, test_rows=test_rows),
        champions=("iterated",),
    )


def _model(task: Depo, **fields: Any) -> ModelConfig:
    return ModelConfig(
        vocab_size=len(task.vocabulary),
        d_model=64,
        n_heads=2,
        mixers=HYBRID,
        window=4 * task.queries if task.pointers == "questions" else task.context_length,
        fast_heads=2,
        conv=4,
        **fields,
    )
