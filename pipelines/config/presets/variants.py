"""Variants and settings that several presets share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pipelines.config.variant import Variant
from sleepmodel import TrainConfig
from sleepmodel.config.training import Curriculum, Truncation

HYBRID, RULES = ("attention", "gated_delta"), ("linear", "delta", "gated_delta", "jet")
ETAS = (0.25, 0.5, 1.0, 1.5, 2.0)
ETA = ETAS[-1]  # of iterated sleep and of hops: a write can replace a value whole


def paper_train(steps: int, batch_size: int, muon_lr: float = 2e-3, validate_every: int = 500) -> TrainConfig:
    """The paper's training; validation, warm-up and precision are ours."""
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        muon_lr=muon_lr,
        adam_lr=5e-5,
        warmup_steps=min(500, validate_every),
        precision="bfloat16",
        validate_every=validate_every,
    )


def iterated_train(steps: int, opens: float, **fields: Any) -> TrainConfig:
    """The training of a sleep whose passes are steps of the task. opens: the share of rows right at which the next
    level opens."""
    return TrainConfig(
        steps=steps,
        batch_size=32,
        # a pass that is repeated hundreds of times has to be exact: the rate falls to 0 over the whole run
        decay_fraction=1.0,
        curriculum=Curriculum(threshold=opens, review=True, front=0.5, steps_per_pass=1),
        truncation=Truncation(every=2),
        **fields,
    )


def at_full_eta(name: str, passes: int = 1, **fields: Any) -> Variant:
    """A variant whose eta is the largest, unless `fields` have another."""
    return Variant(name=name, sleep_passes=passes, **{"fast_weight_lr": ETA, **fields})


def one_pass(name: str, curriculum: Curriculum, **fields: Any) -> Variant:
    """A control with N = 1 for such a sleep, with a loss on the answers alone."""
    return Variant(
        name=name,
        fast_weight_lr=ETA,
        model={"reads_first": False, "carry": "hidden", "pass_embed": False},
        train={"trace_weight": 0.0},
        curriculum=curriculum,
        **fields,
    )


def fewer_seeds(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    """The variants, all but the first with at most three seeds."""
    first, *others = variants
    return first, *(replace(variant, most_seeds=3) for variant in others)


def transformers(depth: int) -> tuple[Variant, ...]:
    """Attention alone: one that evicts its window, and one that keeps the whole row."""
    evicted = Variant(name="transformer-evicted", mixers=("attention",) * depth)
    return evicted, replace(evicted, name="transformer-whole", whole=True)


def controls(passes: int, depth: int, rule: str = "gated_delta") -> tuple[Variant, ...]:
    """The controls for a gain at N = `passes`, the hybrid at N = 1 among them. depth: blocks of the other models."""
    return (
        *transformers(depth),
        Variant(name="fast-weights-only", mixers=(rule,) * depth),
        Variant(name="n1"),
        Variant(name="n1-deep", repeat=passes),
        Variant(name="n1-same-compute", compute_of=passes),
        Variant(name="n1-same-compute-epochs", compute_of=passes, epochs=True),
    )


def at_passes(*passes: int) -> tuple[Variant, ...]:
    """The preset's model at each N."""
    return tuple(Variant(name=f"n{n}", sleep_passes=n) for n in passes)


def at_depths(*depths: int) -> tuple[Variant, ...]:
    """N = 1 at each depth of the task."""
    return tuple(Variant(name=f"n1-t{depth}", depth=depth) for depth in depths)


def at_windows(windows: tuple[int, ...], passes: tuple[int, ...]) -> tuple[Variant, ...]:
    """Every window at every N."""
    return tuple(Variant(name=f"window{w}-n{n}", window=w, sleep_passes=n) for w in windows for n in passes)


def grown(mixers: tuple[str, ...], inserted: tuple[int, ...]) -> tuple[Variant, ...]:
    """Fig. 5: train a transformer; insert fast-weight blocks, train these alone under hard eviction for a third of the
    steps, then everything under sliding eviction for the rest. Control: the transformer, trained as long."""
    transformer = tuple(mixer for i, mixer in enumerate(mixers) if i not in inserted)
    first = Variant(name="transformer", mixers=transformer)
    longer = replace(first, name="transformer-longer", start=first.name)
    return first, longer, *new_blocks_first((1, 2, 4), start=first.name, mixers=mixers, inserted=inserted)


def new_blocks_first(passes: tuple[int, ...], start: str | None = None, **fields: Any) -> tuple[Variant, ...]:
    """At each N: the inserted blocks alone under hard eviction for a third of the steps, then everything for the rest.

    start: the variant to start from; None: the pretrained model. fields: of each variant.
    """
    variants = []
    for n in passes:
        whole = Variant(name=f"n{n}", sleep_passes=n, start=f"n{n}-new-blocks", share_of_steps=2 / 3, **fields)
        alone = replace(whole, name=f"n{n}-new-blocks", start=start, eviction="hard", trained="inserted")
        variants += [replace(alone, share_of_steps=1 / 3), whole]
    return tuple(variants)


def rules(mixers: tuple[str, ...], passes: tuple[int, ...]) -> tuple[Variant, ...]:
    """Every update rule in place of the gated delta rule, at every N."""
    return tuple(
        Variant(
            name=f"{rule}-n{n}",
            sleep_passes=n,
            mixers=tuple(rule if mixer == "gated_delta" else mixer for mixer in mixers),
        )
        for rule in RULES
        for n in passes
    )


def etas(passes: tuple[int, ...]) -> tuple[Variant, ...]:
    """Every eta at every N."""
    return tuple(Variant(name=f"eta{eta:g}-n{n}", sleep_passes=n, fast_weight_lr=eta) for n in passes for eta in ETAS)
