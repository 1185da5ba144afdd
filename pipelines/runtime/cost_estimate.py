"""The cost of an experiment's training: rows, tokens and FLOPs, and seconds from a measured step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from datagen import Task
from pipelines.config.experiment import Experiment, step_flops
from pipelines.config.variant import Variant
from pipelines.engine.stage import Stage, State, state
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import TrainConfig
from sleepmodel.inference.stopwatch import seconds_of
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model

PROBE_TOKENS, PROBE_BLOCKS, PROBE_VOCABULARY = 2**10, 4, 2**10  # of a large model
TIMED_STEPS = 5  # other work on the machine slows some of them


@dataclass(frozen=True)
class TrainingCost:
    """Upper bounds over all trainings. tokens: as if all rows were the longest; flops: by step_flops; longest: those of
    the longest chain of trainings, each of which needs the one before."""

    rows: int
    tokens: int
    flops: float
    longest: float


@dataclass(frozen=True)
class StageTrainings:
    """How many trainings or trials a stage runs, and an upper bound of the FLOPs of each."""

    count: int
    flops: float


def training_cost(experiment: Experiment) -> TrainingCost:
    """The cost of every variant with every seed. With a search, that of its trials, as if all ran to their end at the
    largest N, and of its winner too."""
    seeds = len(experiment.seeds)
    trainings = [
        (
            experiment.variant_model(variant),
            experiment.variant_train(variant),
            experiment.variant_task(variant),
            len(experiment.variant_seeds(variant)),
        )
        for variant in experiment.variants
    ]
    if experiment.search:
        widest = replace(experiment.model, sleep_passes=max(experiment.search.sleep_passes))
        trainings += [
            (model, experiment.train, experiment.task, runs)
            for model, runs in ((widest, experiment.search.trials + seeds), (experiment.model, seeds))
        ]
    rows = [runs * train.steps * train.batch_size for _, train, _, runs in trainings]
    tokens = [count * task.row_length for count, (_, _, task, _) in zip(rows, trainings, strict=True)]
    flops = [train.steps * step_flops(model, train, task) for model, train, task, _ in trainings]
    total = sum(runs * one for one, (*_, runs) in zip(flops, trainings, strict=True))
    by_variant = {variant.name: one for variant, one in zip(experiment.variants, flops, strict=False)}
    searched = 2 * flops[len(by_variant)] if experiment.search else 0.0  # a trial, then its winner
    longest = max(longest_chain(experiment.variants, by_variant), searched)
    return TrainingCost(sum(rows), sum(tokens), total, longest)


def longest_chain(variants: Sequence[Variant], cost: Mapping[str, float]) -> float:
    """The cost of the longest chain of trainings, each of which starts from the one before."""
    ended = dict[str, float]()
    for variant in variants:  # a variant stands behind the one that it starts from
        ended[variant.name] = cost[variant.name] + (ended[variant.start] if variant.start else 0)
    return max(ended.values(), default=0.0)


def stage_trainings(experiment: Experiment, stages: Sequence[Stage]) -> dict[str, StageTrainings]:
    """The trainings of each of `stages` that trains, by name. A model that the search has not chosen yet counts at the
    search's largest N."""
    search = experiment.search
    widest = replace(experiment.model, sleep_passes=max(search.sleep_passes)) if search else experiment.model
    tasks = {variant.name: experiment.variant_task(variant) for variant in experiment.variants}
    found: dict[str, StageTrainings] = {}
    cost: dict[tuple[ModelConfig, TrainConfig, Task], float] = {}
    for stage in stages:
        config = stage.config
        if not isinstance(config, dict) or "train" not in config:
            continue
        train, searched = config["train"], "search" in config
        model = widest if searched else config.get("model", widest)
        # trainings that differ in their seeds alone cost the same
        key = (model, replace(train, seed=0), tasks.get(config.get("variant", ""), experiment.task))
        if key not in cost:
            cost[key] = step_flops(*key)
        found[stage.name] = StageTrainings(config["search"].trials if searched else 1, cost[key] * train.steps)
    return found


def done_share(experiment: Experiment, stages: Sequence[Stage], root: Path) -> float:
    """The share of the FLOPs of all trainings of `stages` that lies in stages which are done."""
    flops = {name: each.count * each.flops for name, each in stage_trainings(experiment, stages).items()}
    done = sum(flops.get(stage.name, 0.0) for stage in stages if state(stage, root) is State.DONE)
    return done / (sum(flops.values()) or 1.0)  # of models that are evaluated without a training


def training_seconds(experiment: Experiment) -> float:
    """Seconds that all training would take on this machine's CPU, with as many workers at once as there are cores for,
    at the rate of the fastest of a few timed steps at N = 1; of few rows, tokens and blocks where the model is large.
    """
    large = experiment.paper_scale or experiment.pretrained.model or experiment.pretrained.source
    step, flops = timed_step(experiment, "float32", PROBE_TOKENS if large else None)
    with torch_threads(experiment.scale.cores):
        step()  # the first one also compiles the kernel
        fastest = min(seconds_of(step) for _ in range(TIMED_STEPS))
    cost, workers = training_cost(experiment), experiment.scale.workers
    at_once = max(1, _cores() // (experiment.scale.cores * workers))  # trainings
    return max(cost.flops / at_once, cost.longest) / workers * fastest / flops


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch uses `count` threads, as a training will: more of them would wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def timed_step(
    experiment: Experiment, precision: Literal["float32", "bfloat16"], most: int | None
) -> tuple[Callable[[], object], float]:
    """A step of training at N = 1 on this machine's CPU, without the optimiser, to be timed, and its FLOPs. most:
    tokens; with a limit also few blocks and a small vocabulary; None: as the experiment trains."""
    model = experiment.model
    train = replace(experiment.train, rows=None, precision=precision, trained="all", sleep_passes=(), trace_weight=0.0)
    if most is not None:
        train = replace(train, batch_size=min(train.batch_size, max(1, most // experiment.task.row_length)))
        mixers, vocabulary = model.mixers[:PROBE_BLOCKS], min(model.vocab_size, PROBE_VOCABULARY)
        model = replace(model, mixers=mixers, loop=None, inserted=(), vocab_size=vocabulary)
    engine = LocalEngine(build_model(model, train), train)
    tokens, mask = map(torch.from_numpy, experiment.task.sample("train", 0, 0, train.batch_size).batch())
    tokens = torch.where(tokens < 0, tokens, tokens % model.vocab_size)
    return lambda: engine.backward(tokens, mask), step_flops(model, train, experiment.task)
