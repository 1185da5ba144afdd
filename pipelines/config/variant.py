"""A variant of an experiment: what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from datagen import Task
from datagen.canonical import added_later
from datagen.checks import require
from sleepmodel import ModelConfig, TrainConfig
from sleepmodel.config.training import Curriculum

# what a variant sets by other fields than `model` and `train`
OF_VARIANTS = ("sleep_passes", "fast_weight_lr", "mixers", "inserted", "steps", "seed", "trained", "curriculum")
WINNER, WINNER_AT_N1 = "winner", "n1-winner-eta"  # the variants that a search adds
C = TypeVar("C", Task, ModelConfig, TrainConfig)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A model and its training, once for each seed. None and () stand for the experiment's own value.

    sleep_passes, fast_weight_lr: N and eta.
    mixers: of the blocks; repeat: how often to stack them, so that N = 1 is as deep as N passes unrolled.
    inserted_mixer: of the inserted blocks, in place of the experiment's: "attention" makes a control without memory.
    window: L; whole: one window holds the whole row, so that nothing is evicted: an upper bound for transformers.
    compute_of: train for as many steps as cost the FLOPs of the training of the experiment's own model at this N.
    epochs: train these steps in epochs on the rows that the experiment's training reads, instead of on fresh rows.
    depth: the task's greatest depth (Rule 110: steps to predict).
    task, model, train: fields of the task, the ModelConfig and the TrainConfig that differ, such as {"frame": 0}.
    inserted: which of `mixers` are inserted blocks.
    eviction: "hard" or "sliding".
    start: an earlier variant whose trained weights this one begins with. Inserted blocks that the earlier one lacks
        start as the identity. Tokens and FLOPs count its own training alone.
    share_of_steps: the share of the experiment's steps that it is trained for; 0: what it begins with, untrained.
    trained, curriculum, drawn_passes: TrainConfig's trained, curriculum and sleep_passes.
    evaluated_at: more N to evaluate the model at, beside those that it was trained for.
    most_seeds: it is trained with at most so many of the experiment's seeds, the first ones; None: with all.
    """

    name: str
    sleep_passes: int = 1
    fast_weight_lr: float = 1.0
    mixers: tuple[str, ...] | None = None
    inserted_mixer: str | None = added_later(None)
    inserted: tuple[int, ...] | None = added_later(None)
    eviction: Literal["hard", "sliding"] | None = added_later(None)
    repeat: int = 1
    window: int | None = None
    whole: bool = False
    compute_of: int | None = None
    epochs: bool = False
    depth: int | None = None
    start: str | None = None
    share_of_steps: float = added_later(1.0)
    trained: Literal["all", "inserted"] | None = added_later(None)
    curriculum: Curriculum | None = None
    drawn_passes: tuple[int, ...] = ()
    evaluated_at: tuple[int, ...] = ()
    task: Mapping[str, Any] | None = added_later(None)
    model: Mapping[str, Any] | None = added_later(None)
    train: Mapping[str, Any] | None = added_later(None)
    most_seeds: int | None = added_later(None)


def with_own(config: C, own: Mapping[str, Any] | None, what: str) -> C:
    """A config with the fields of a variant's own. Raises ValueError if there is no such field, or if the variant has
    another way to set it."""
    if not own:
        return config
    # a task may have a field of any name
    known = [each.name for each in fields(config) if isinstance(config, Task) or each.name not in OF_VARIANTS]
    require(set(own) <= set(known), what, dict(own), f"values of {', '.join(known)}")
    return replace(config, **own)
