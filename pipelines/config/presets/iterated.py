"""Iterated sleep on Rule 110: each pass of a sleep computes one step (docs/iterated-sleep.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from datagen import Rule110
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import HYBRID, at_full_eta, fewer_seeds, iterated_train, one_pass
from pipelines.config.variant import Variant
from sleepmodel import ModelConfig
from sleepmodel.config.training import Curriculum, Truncation

# about the mean N of the training of `iterated`, which is 4.25 when all levels are open, and 2 to 3.5 before; and an N
# with four times as many FLOPs
MEAN_PASSES, FAR = 4, 18
ONE_PASS_OPENS = 0.35  # rows right; 95 % of their 24 cells


TASK = Rule110(
    cells=24,
    states=1,
    steps=4,
    shallowest=1,
    labels="all",
    frame=1,
    traced=True,
    stated=False,
    test_steps=tuple(2**i for i in range(9)),
)


def iterated() -> Experiment:
    """Training on t <= 4, tests up to t = 256; without each of its parts, and against one pass."""
    variants = (
        *passes_as_steps(TASK.steps),
        *one_pass_at_each(12, ONE_PASS_OPENS, {"one-pass-compute": MEAN_PASSES, "one-pass-far": FAR}),
        replace(one_pass_at_each(12, ONE_PASS_OPENS)[0], name="one-pass-deep", repeat=4),
        one_pass_at(32),
    )
    return experiment(
        "rule110-iterated", TASK, fewer_seeds(variants), seeds=tuple(range(90, 100)), steps=1200, test_rows=4608
    )


def backward() -> Experiment:
    """Is it the parts of the iterated sleep, or the backward that is cut every two passes? The main variants with
    each backward."""
    cut = [each for each in passes_as_steps(TASK.steps) if each.name in ("iterated", "hidden", "untraced")]
    whole = [
        replace(each, name=f"{each.name}-whole", train={**(each.train or {}), "truncation": Truncation()})
        for each in cut
    ]
    variants = tuple(variant for pair in zip(cut, whole, strict=True) for variant in pair)
    return experiment("rule110-iterated-backward", TASK, variants, seeds=(90, 91, 92), steps=1200, test_rows=4608)


def iterated_mini() -> Experiment:
    """Training on t <= 3 with 12 cells, tests up to t = 32: the main variants in a few minutes."""
    task = replace(TASK, cells=12, steps=3, test_steps=(1, 2, 3, 4, 8, 16, 32))
    first, *rest = passes_as_steps(task.steps)
    variants = (
        first,
        *(variant for variant in rest if variant.name in ("hidden", "untraced")),
        *one_pass_at_each(6, 0.5),
    )
    return experiment("rule110-iterated-mini", task, variants, seeds=(60,), steps=800, test_rows=1400)


def experiment(
    name: str, task: Rule110, variants: tuple[Variant, ...], seeds: tuple[int, ...], steps: int, test_rows: int
) -> Experiment:
    return Experiment(
        name=name,
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary),
            d_model=64,
            n_heads=2,
            mixers=HYBRID,
            window=task.context_length,
            fast_heads=2,
            max_positions=task.row_length,
            carry="token",
            reads_first=True,
            pass_embed=True,
        ),
        train=iterated_train(steps, opens=0.9, validate_every=50, trace_weight=1.0),
        variants=variants,
        seeds=seeds,
        data=Data(seed=11, test_rows=test_rows),
        champions=("iterated",),
    )


def passes_as_steps(steps: int) -> tuple[Variant, ...]:
    """The model whose passes are steps, then without each of its parts. steps: of the deepest training rows."""
    variant = partial(at_full_eta, passes=steps + 1)
    return (
        variant("iterated"),
        variant("hidden", model={"carry": "hidden"}),
        variant("normalized", model={"carry": "normalized"}),
        variant("mixture", model={"carry": "mixture"}),
        variant("untraced", train={"trace_weight": 0.0}),
        variant("fixed-frame", task={"frame": 0}),
        variant("eta-1", fast_weight_lr=1.0),
        variant("delta", mixers=("attention", "delta")),
        variant("unmarked", model={"pass_embed": False}),
        variant("no-reading", passes=steps, model={"reads_first": False}),
        variant("one-head", model={"fast_heads": 1}),
        variant("four-states", task={"states": 4, "labels": "each"}, train={"batch_size": 8}),
    )


def one_pass_at_each(deepest: int, opens: float, by_compute: Mapping[str, int] | None = None) -> tuple[Variant, ...]:
    """Controls with N = 1, whose rows state their steps: on as many tokens, and at the FLOPs of more passes.

    deepest: steps of the deepest training rows; opens: the share of rows right at which the next number of steps
    opens; by_compute: name -> N.
    """
    curriculum = Curriculum(threshold=opens, review=True, front=0.5)
    task = {"steps": deepest, "stated": True, "traced": False, "test_steps": ()}
    computes = {"one-pass": None, **(by_compute or {})}
    return tuple(one_pass(name, curriculum, task=task, compute_of=passes) for name, passes in computes.items())


def one_pass_at(steps: int) -> Variant:
    """N = 1, trained for that many steps of the automaton from the first optimiser step on."""
    task = {"steps": steps, "shallowest": None, "traced": False, "test_steps": ()}
    return one_pass(f"one-pass-at-{steps}", Curriculum(), task=task, compute_of=MEAN_PASSES)
