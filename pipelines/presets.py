"""What a pipeline is made of, and the presets: a laptop's demonstration and the paper's figures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from datagen import Depo, Gsm, Rule110
from datagen.gsm.task import WINDOW_STEP
from sleepmodel import ModelConfig, Scale, SleepModel, TrainConfig
from sleepmodel.config import Search, check_compatible, require

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
            require(getattr(self, name) >= 1, name, getattr(self, name), "an integer of at least 1")
        require(self.seed >= 0, "seed", self.seed, "an integer of at least 0")
        rows = self.train_rows
        require(rows is None or rows >= 1, "train_rows", rows, "an integer of at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One line of the comparison: a model and its training, once for each seed.

    sleep_passes, fast_weight_lr: N and eta; mixers: of its blocks, None is the preset's; repeat: that stack so often,
    so that N = 1 is as deep as N passes unrolled; window: L, None is the preset's; whole: one window holds the whole
    row, so that nothing is ever evicted (what a transformer that keeps its cache can do at best).
    compute_of: train for as many steps as cost the FLOPs of the preset's run at this N; None is the preset's steps.
    epochs: of those steps, on the rows that the preset's run reads, again and again, instead of on fresh ones.
    depth: automaton steps to predict, where they differ from the task's.
    start: an earlier line, whose trained embeddings, readout and attention blocks this one's begin as; its other blocks
    are new, and do nothing at first. fresh_steps: of the training, as TrainConfig's.
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
    fresh_steps: int = 0


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Everything that shapes a pipeline's results (scale, which does not, rides along).

    arms: the baselines; search: over N and eta, whose winner becomes the last line of the comparison, None without one;
    seeds: of every line of the comparison; search_seed is another, so that the winner is not chosen on these.
    paper_scale: too large for CPUs; `--force` runs it there all the same.
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

    def __post_init__(self) -> None:
        task, model = self.task, self.model
        _check_window(task, model.window)
        positions, allowed = model.max_positions, f"at least the task's row length {task.row_length}, or null"
        require(positions is None or positions >= task.row_length, "model.max_positions", positions, allowed)
        allowed = f"{len(task.vocabulary)}, the task's"
        require(model.vocab_size == len(task.vocabulary), "model.vocab_size", model.vocab_size, allowed)
        distinct = len(set(self.seeds)) == len(self.seeds) > 0 and min(self.seeds) >= 0
        require(distinct, "seeds", self.seeds, "at least one seed, all different, none negative")
        require(self.search_seed not in self.seeds, "search_seed", self.search_seed, "a seed that is not in seeds")
        for name in ("sleep_passes", "fast_weight_lr"):
            allowed = (
                "1: the preset's lines and its search set it (search.sleep_passes, search.eta_low, search.eta_high)"
            )
            require(getattr(model, name) == 1, f"model.{name}", getattr(model, name), allowed)
        require(self.search_seed >= 0, "search_seed", self.search_seed, "an integer of at least 0")
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

    def arm_model(self, arm: Arm) -> ModelConfig:
        """The arm's architecture."""
        window = self.task.row_length if arm.whole else arm.window or self.model.window
        mixers = (arm.mixers or self.model.mixers) * arm.repeat
        return replace(
            self.model,
            window=window,
            mixers=mixers,
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
        rows = self.train.steps * self.train.batch_size if arm.epochs else self.train.rows
        return replace(self.train, steps=self.arm_steps(arm), rows=rows, fresh_steps=arm.fresh_steps)

    def tasks(self) -> list[AnyTask]:
        """Every task that the pipeline trains on, each once."""
        searched = [self.task] if self.search else []
        return list(dict.fromkeys([*map(self.arm_task, self.arms), *searched]))

    def arm_steps(self, arm: Arm) -> int:
        """The arm's optimiser steps."""
        if arm.compute_of is None:
            return self.train.steps
        target = self.step_flops(replace(self.arm_model(arm), sleep_passes=arm.compute_of))
        return round(self.train.steps * target / self.step_flops(self.arm_model(arm)))

    def step_flops(self, model: ModelConfig) -> float:
        """FLOPs of one training step on longest rows: three times the forward's, as a backward costs two; the mean
        where N is drawn."""
        passes = self.train.sleep_passes or (model.sleep_passes,)
        with torch.device("meta"):
            built = SleepModel(model)
        forward = sum(built.flops(self.task.row_length, n) for n in passes) / len(passes)
        return 3 * self.train.batch_size * forward

    def train_rows(self) -> int:
        """Rows of the training split: none is read twice, but by lines that are made to."""
        configs = map(self.arm_train, self.arms)
        return self.data.train_rows or max(config.rows or config.steps * config.batch_size for config in configs)


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


def _rule110(depth: int) -> Rule110:
    return Rule110(cells=24, states=4, steps=depth)


_PAPER_MODEL = ModelConfig(vocab_size=3, max_positions=101)
_PAPER_TRAIN = TrainConfig(
    batch_size=512, muon_lr=2e-3, adam_lr=5e-5, warmup_steps=500, precision="bfloat16", validate_every=500
)
_FIG2_TOKENS = 5_000_000_000
_FIG2_STEPS = round(_FIG2_TOKENS / (_PAPER_TRAIN.batch_size * _rule110(32).row_length))

_DEMO = Pipeline(
    name="demo",
    task=Rule110(cells=16, states=1, steps=6),
    model=ModelConfig(
        vocab_size=3,
        d_model=64,
        n_heads=2,
        mixers=("attention", "gated_delta"),
        window=16,
        fast_heads=1,
        max_positions=18,
    ),
    train=TrainConfig(steps=600, validate_every=75),
    arms=(
        Arm(name="n1"),
        Arm(name="n2", sleep_passes=2),
        Arm(name="n1-same-compute", compute_of=2),
    ),
    seeds=(30, 31, 32),
    search=Search(trials=6),
    data=Data(seed=7),
)

PRESETS = {
    "demo": _DEMO,
    "smoke": replace(
        _DEMO,
        name="smoke",
        model=replace(_DEMO.model, d_model=16, key_dim=16, value_dim=16),
        train=TrainConfig(steps=20, batch_size=32, validate_every=10, warmup_steps=5),
        arms=(Arm(name="n1"),),
        seeds=(20, 21),
        search=Search(trials=2, sleep_passes=(1, 2), grace=2),
        data=Data(seed=7, validation_rows=64, test_rows=256),
    ),
    "rule110-fig2a": Pipeline(
        name="rule110-fig2a",
        task=_rule110(4),
        model=_PAPER_MODEL,
        train=replace(_PAPER_TRAIN, steps=_FIG2_STEPS // 5),
        arms=tuple(Arm(name=f"n1-t{depth}", depth=depth) for depth in (4, 8, 12, 16)),
        seeds=(0,),
        scale=Scale(gpu=True),
        paper_scale=True,
    ),
    "rule110-fig2b": Pipeline(
        name="rule110-fig2b",
        task=_rule110(32),
        model=_PAPER_MODEL,
        train=replace(_PAPER_TRAIN, steps=_FIG2_STEPS),
        arms=tuple(Arm(name=f"n{passes}", sleep_passes=passes) for passes in (1, 2, 3, 4)),
        seeds=(0,),
        scale=Scale(gpu=True),
        paper_scale=True,
    ),
}
