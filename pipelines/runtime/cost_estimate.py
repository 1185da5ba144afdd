"""The cost of an experiment's training: rows, tokens and FLOPs, and seconds from a measured step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from pipelines.config.experiment import Experiment
from pipelines.engine.stage import Stage
from sleepmodel.config.model import ModelConfig
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model

PROBE_TOKENS, PROBE_BLOCKS, PROBE_VOCABULARY = 2**10, 4, 2**10  # of a large model
TIMED_STEPS = 5  # other work on the machine slows some of them


@dataclass(frozen=True)
class TrainingCost:
    """Upper bounds over all trainings. tokens: as if all rows were the longest; flops: by Experiment.step_flops."""

    rows: int
    tokens: int
    flops: float


@dataclass(frozen=True)
class StageTrainings:
    """How many trainings or trials a stage runs, and an upper bound of the FLOPs of each."""

    count: int
    flops: float


def training_cost(experiment: Experiment) -> TrainingCost:
    """The cost of every variant with every seed. With a search, that of its trials, as if all ran to their end at the
    largest N, and of its winner too."""
    stages = [
        (
            (experiment.variant_model(variant), train.sleep_passes, train.trained, train.trace_weight > 0),
            train.steps,
        )
        for variant in experiment.variants
        for train in [experiment.variant_train(variant)]
    ]
    runs = stages * len(experiment.seeds)
    if experiment.search:
        widest = replace(experiment.model, sleep_passes=max(experiment.search.sleep_passes))
        trained, steps = experiment.train.trained, experiment.train.steps
        traced = experiment.train.trace_weight > 0
        runs += [((widest, (), trained, traced), steps)] * (experiment.search.trials + len(experiment.seeds))
        runs += [((experiment.model, (), trained, traced), steps)] * len(experiment.seeds)
    rows = experiment.train.batch_size * sum(steps for _, steps in runs)
    cost = {kind: experiment.step_flops(*kind) for kind in {kind for kind, _ in runs}}  # many runs share a model
    flops = sum(cost[kind] * steps for kind, steps in runs)
    return TrainingCost(rows, rows * experiment.task.row_length, flops)


def stage_trainings(experiment: Experiment, stages: Sequence[Stage]) -> dict[str, StageTrainings]:
    """The trainings of each of `stages` that trains, by name. A model that the search has not chosen yet counts at the
    search's largest N."""
    search = experiment.search
    widest = replace(experiment.model, sleep_passes=max(search.sleep_passes)) if search else experiment.model
    found: dict[str, StageTrainings] = {}
    cost: dict[tuple[ModelConfig, tuple[int, ...], str, bool], float] = {}
    for stage in stages:
        config = stage.config
        if not isinstance(config, dict) or "train" not in config:
            continue
        train, searched = config["train"], "search" in config
        model = widest if searched else config.get("model", widest)
        key = (model, train.sleep_passes, train.trained, train.trace_weight > 0)
        if key not in cost:
            cost[key] = experiment.step_flops(*key)
        found[stage.name] = StageTrainings(config["search"].trials if searched else 1, cost[key] * train.steps)
    return found


def training_seconds(experiment: Experiment) -> float:
    """Seconds that all training would take on this machine's CPU, one after the other, at the rate of the fastest of a
    few timed steps at N = 1; of few rows, tokens and blocks where the model is large."""
    train, model = replace(experiment.train, rows=None, precision="float32", trained="all"), experiment.model
    if experiment.paper_scale or experiment.pretrained.model or experiment.pretrained.source:
        most = max(1, PROBE_TOKENS // experiment.task.row_length)
        train = replace(train, batch_size=min(train.batch_size, most))
        mixers, vocabulary = model.mixers[:PROBE_BLOCKS], min(model.vocab_size, PROBE_VOCABULARY)
        model = replace(model, mixers=mixers, loop=None, inserted=(), vocab_size=vocabulary)
    engine = LocalEngine(build_model(model, train), train)
    tokens, mask = map(torch.from_numpy, experiment.task.sample("train", 0, 0, train.batch_size).batch())
    tokens = torch.where(tokens < 0, tokens, tokens % model.vocab_size)
    engine.backward(tokens, mask)  # the first one also compiles the kernel
    seconds = min(_timed(lambda: engine.backward(tokens, mask)) for _ in range(TIMED_STEPS))
    flops = experiment.step_flops(model) * train.batch_size / experiment.train.batch_size
    return training_cost(experiment).flops * seconds / flops


def _timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
