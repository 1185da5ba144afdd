"""What a pipeline is made of: a task, a model, a training, lines to compare, a search."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from datagen import Depo, Gsm, Rule110
from datagen.gsm.task import WINDOW_STEP
from sleepmodel import ModelConfig, Scale, SleepModel, TrainConfig
from sleepmodel.config import MAX_SEED, Curriculum, Search, check_compatible, require, require_whole

AnyTask = Rule110 | Depo | Gsm


@dataclass(frozen=True, kw_only=True)
class Data:
    """Rows of each split. train_rows: None is as many as the longest run reads, so that none is read twice (tasks
    with few different rows repeat them all the same). seed: of the datasets, not of the training."""

    train_rows: int | None = None
    validation_rows: int = 1024
    test_rows: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation_rows", "test_rows"):
            require_whole(name, getattr(self, name), 1)
        require_whole("seed", self.seed, 0, MAX_SEED)
        if self.train_rows is not None:
            require_whole("train_rows", self.train_rows, 1)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of the comparison: a model and its training, once for each seed.

    sleep_passes, fast_weight_lr: N and eta; mixers: of its blocks, None is the preset's; repeat: that stack so often,
    so that N = 1 is as deep as N passes unrolled; window: L, None is the preset's; whole: one window holds the whole
    row, so that nothing is ever evicted (what a transformer that keeps its cache can do at best).
    compute_of: train for as many steps as cost the FLOPs of the preset's run at this N; None is the preset's steps.
    epochs: of those steps, on no more rows than the preset's run reads, again and again, instead of on fresh ones.
    depth: automaton steps to predict, where they differ from the task's.
    start: an earlier line, whose trained embeddings, readout and attention blocks this one's begin as; its other blocks
    are new, and do nothing at first; its tokens and FLOPs are those of its own training alone.
    fresh_steps, curriculum, drawn_passes (TrainConfig.sleep_passes): of the training; None or () is the preset's.
    evaluated_at: other N at which the model is evaluated, beside those that it was trained for.
    """

    name: str
    sleep_passes: int = 1
    fast_weight_lr: float = 1.0
    mixers: tuple[str, ...] | None = None
    repeat: int = 1
    window: int | None = None
    whole: bool = False
    compute_of: int | None = None
    epochs: bool = False
    depth: int | None = None
    start: str | None = None
    fresh_steps: int | None = None
    curriculum: Curriculum | None = None
    drawn_passes: tuple[int, ...] = ()
    evaluated_at: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Everything that shapes a pipeline's results (scale, which does not, rides along).

    arms: the baselines; search: over N and eta, whose winner becomes the last line of the comparison, None without one;
    seeds: of every line of the comparison; search_seed is another, so that the winner is not chosen on these.
    paper_scale: too large for CPUs; `--force` runs it there all the same. registers: its best model becomes a version
    in the registry.
    """

    name: str
    task: AnyTask
    model: ModelConfig
    train: TrainConfig
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    search: Search | None = None
    search_seed: int = 1000
    data: Data = field(default_factory=Data)
    scale: Scale = field(default_factory=Scale)
    paper_scale: bool = False
    registers: bool = True

    def __post_init__(self) -> None:
        task, model = self.task, self.model
        _check_window(task, model.window)
        positions, allowed = model.max_positions, f"at least the task's row length {task.row_length}, or null"
        require(positions is None or positions >= task.row_length, "model.max_positions", positions, allowed)
        allowed = f"{len(task.vocabulary)}, the task's"
        require(model.vocab_size == len(task.vocabulary), "model.vocab_size", model.vocab_size, allowed)
        distinct = len(set(self.seeds)) == len(self.seeds) > 0 and min(self.seeds) >= 0 and max(self.seeds) <= MAX_SEED
        require(distinct, "seeds", self.seeds, f"at least one seed, all different, from 0 to {MAX_SEED}")
        require(self.search_seed not in self.seeds, "search_seed", self.search_seed, "a seed that is not in seeds")
        for name in ("sleep_passes", "fast_weight_lr"):
            allowed = (
                "1: the preset's lines and its search set it (search.sleep_passes, search.eta_low, search.eta_high)"
            )
            require(getattr(model, name) == 1, f"model.{name}", getattr(model, name), allowed)
        require_whole("search_seed", self.search_seed, 0, MAX_SEED)
        rows = self.data.train_rows
        allowed = f"at least one batch of {self.train.batch_size}"
        require(rows is None or rows >= self.train.batch_size, "data.train_rows", rows, allowed)
        check_compatible(self.train, self.scale)
        names = [arm.name for arm in self.arms]
        for i, arm in enumerate(self.arms):
            allowed = f"an earlier line of the comparison, of {names[:i]}, or null"
            require(arm.start is None or arm.start in names[:i], f"start of {arm.name}", arm.start, allowed)
            if not arm.whole:
                _check_window(task, self.arm_model(arm).window)
            self._check_start(arm)
            self._check_curriculum(arm)
        by_level = self.search is not None and self.train.curriculum.by_level
        require(not by_level, "search", self.search, "null with train.curriculum: trials would be validated unlike")

    def _check_start(self, arm: Arm) -> None:
        """Raise ValueError where a line cannot begin as the one that it names."""
        if arm.start is None:
            return
        earlier = next(other for other in self.arms if other.name == arm.start)
        has, needed = (self.arm_model(each).mixers.count("attention") for each in (arm, earlier))
        require(has == needed, f"mixers of {arm.name}", self.arm_model(arm).mixers, f"with {needed} of attention")

    def _check_curriculum(self, arm: Arm) -> None:
        """Raise ValueError where a line's N is another than its curriculum gives to the deepest rows."""
        passes = self.arm_curriculum(arm).passes(_deepest(self.arm_task(arm)))
        if passes is not None:
            allowed = f"{passes}, as curriculum.steps_per_pass has it for the deepest rows"
            require(arm.sleep_passes == passes, f"sleep_passes of {arm.name}", arm.sleep_passes, allowed)
            require(not arm.evaluated_at, f"evaluated_at of {arm.name}", arm.evaluated_at, "empty with steps_per_pass")
            require(arm.compute_of is None, f"compute_of of {arm.name}", arm.compute_of, "null with steps_per_pass")

    def arm_model(self, arm: Arm) -> ModelConfig:
        """The arm's architecture."""
        window = self.task.row_length if arm.whole else arm.window or self.model.window
        mixers = (arm.mixers or self.model.mixers) * arm.repeat
        return replace(
            self.model,
            window=window,
            mixers=mixers,
            # a stack of another depth has no such middle
            loop=self.model.loop if len(mixers) == len(self.model.mixers) else None,
            sleep_passes=arm.sleep_passes,
            fast_weight_lr=arm.fast_weight_lr,
        )

    def arm_task(self, arm: Arm) -> AnyTask:
        """The arm's task."""
        if arm.depth is None:
            return self.task
        assert isinstance(self.task, Rule110), f"{arm.name}: depth is Rule 110's"
        return replace(self.task, steps=arm.depth)

    def arm_train(self, arm: Arm) -> TrainConfig:
        """The arm's training."""
        read = self.train.steps * self.train.batch_size
        rows = min(read, self.train.rows or read) if arm.epochs else self.train.rows
        return replace(
            self.train,
            steps=self.arm_steps(arm),
            rows=rows,
            fresh_steps=self.train.fresh_steps if arm.fresh_steps is None else arm.fresh_steps,
            curriculum=self.arm_curriculum(arm),
            sleep_passes=arm.drawn_passes or self.train.sleep_passes,
        )

    def arm_curriculum(self, arm: Arm) -> Curriculum:
        """The curriculum of the arm's training."""
        return arm.curriculum or self.train.curriculum

    def candidates(self) -> list[str]:
        """The lines whose models the registry may take, where no search chose one: those that forget, at one N, trained
        on the pipeline's own task."""
        return [
            arm.name
            for arm in self.arms
            if self.registers
            and not arm.whole
            and self.arm_task(arm) == self.task
            and self.arm_curriculum(arm).steps_per_pass is None
        ]

    def tasks(self) -> list[AnyTask]:
        """Every task that the pipeline trains on, each once."""
        searched = [self.task] if self.search else []
        return list(dict.fromkeys([*map(self.arm_task, self.arms), *searched]))

    def arm_steps(self, arm: Arm) -> int:
        """The arm's optimiser steps."""
        if arm.compute_of is None:
            return self.train.steps
        model = self.arm_model(arm)
        return round(self.train.steps * self.step_flops(model, (arm.compute_of,)) / self.step_flops(model))

    def step_flops(self, model: ModelConfig, drawn: tuple[int, ...] = ()) -> float:
        """FLOPs of one training step on longest rows: three times the forward's, as a backward costs two; the mean
        where N is `drawn`, by the preset where that is empty."""
        passes = drawn or self.train.sleep_passes or (model.sleep_passes,)
        with torch.device("meta"):
            built = SleepModel(model)
        forward = sum(built.flops(self.task.row_length, n) for n in passes) / len(passes)
        return 3 * self.train.batch_size * forward

    def train_rows(self) -> int:
        """Rows of the training split: none is read twice, but by lines that are made to."""
        configs = map(self.arm_train, self.arms)
        return self.data.train_rows or max(config.rows or config.steps * config.batch_size for config in configs)


def _deepest(task: AnyTask) -> int:
    """The greatest depth that rows of a task have."""
    if isinstance(task, Gsm):
        return task.operations[1]
    return task.hops if isinstance(task, Depo) else task.steps


def _check_window(task: AnyTask, window: int) -> None:
    """Raise ValueError where a window's border would fall before an answer, or split a context that it must not."""
    if isinstance(task, Gsm):
        require(
            window % WINDOW_STEP == 0, "model.window", window, f"a multiple of {WINDOW_STEP}, as the task's rows ask"
        )
        return
    context, answers = task.context_length, task.row_length - task.context_length
    allowed = f"a divisor of the task's context of {context} tokens, so that all of it is slept on"
    require(context % window == 0, "model.window", window, allowed)
    allowed = f"at least {answers}, so that the query and its answers lie in one window"
    require(answers <= window, "model.window", window, allowed)
