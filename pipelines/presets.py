"""What a pipeline is made of, and the presets: a laptop's demonstration and the paper's figures."""

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
        passes = self.arm_curriculum(arm).passes(deepest(self.arm_task(arm)))
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


def deepest(task: AnyTask) -> int:
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


HYBRID, RULES = ("attention", "gated_delta"), ("linear", "delta", "gated_delta", "jet")


def _controls(passes: int, depth: int = 2, rule: str = "gated_delta") -> tuple[Arm, ...]:
    """What a gain of N = `passes` has to be held against, `depth` blocks deep; the hybrid at N = 1 among them."""
    return (
        Arm(name="transformer-evicted", mixers=("attention",) * depth),
        Arm(name="transformer-whole", mixers=("attention",) * depth, whole=True),
        Arm(name="fast-weights-only", mixers=(rule,) * depth),
        Arm(name="n1"),
        Arm(name="n1-deep", repeat=passes),
        Arm(name="n1-same-compute", compute_of=passes),
        Arm(name="n1-same-compute-epochs", compute_of=passes, epochs=True),
    )


def _sleepers(*passes: int) -> tuple[Arm, ...]:
    return tuple(Arm(name=f"n{n}", sleep_passes=n) for n in passes)


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
    model=ModelConfig(vocab_size=3, d_model=64, n_heads=2, mixers=HYBRID, window=16, fast_heads=1, max_positions=18),
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
_MINI = replace(_DEMO, search=None, data=Data(seed=11))
_CLIMB = Rule110(cells=16, states=1, steps=4, shallowest=1, labels="all")
_PAPER = Pipeline(
    name="rule110-fig2b",
    task=_rule110(32),
    model=_PAPER_MODEL,
    train=replace(_PAPER_TRAIN, steps=_FIG2_STEPS),
    arms=_controls(4, depth=4) + _sleepers(2, 3, 4),
    seeds=(0,),
    scale=Scale(gpu=True),
    paper_scale=True,
)

# the paper's sizes; the mini's context is one window, as hours are too few to learn one hop among more nodes and hops
_DEPO, _DEPO_MINI = Depo(), Depo(nodes=6, hops=2, queries=4)
_DEPO_PAPER = replace(
    _PAPER,
    name="depo-fig3",
    task=_DEPO,
    model=ModelConfig(
        vocab_size=len(_DEPO.vocabulary), d_model=512, n_heads=8, mixers=HYBRID * 5, window=75, fast_heads=8
    ),
    train=replace(_PAPER_TRAIN, batch_size=128, steps=100_000),
    arms=_controls(4, depth=10) + _sleepers(2, 4),
)

# the paper's models are pretrained; these have their shape and begin with nothing
_GSM, _GSM_MINI = Gsm(), Gsm(operations=(1, 3), tokens=(192, 320))
_GSM_PAPER = replace(
    _PAPER,
    name="gsm-fig4",
    task=_GSM,
    model=ModelConfig(
        vocab_size=len(_GSM.vocabulary),
        d_model=1536,
        n_heads=12,
        mixers=("attention", "jet") * 14,
        window=2000,
        loop=(7, 21),
        fast_heads=12,
        key_dim=96,
        value_dim=256,
    ),
    train=replace(_PAPER_TRAIN, batch_size=256, steps=10_000, muon_lr=1e-3),
    arms=_controls(4, depth=28, rule="jet") + _sleepers(2, 4, 6),
    data=Data(test_rows=1600, seed=5),
)
_GSM_SMALL = replace(
    _MINI,
    name="gsm-fig4-mini",
    task=_GSM_MINI,
    model=ModelConfig(
        vocab_size=len(_GSM_MINI.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=128, fast_heads=1
    ),
    train=TrainConfig(steps=1000, batch_size=32, validate_every=100),
    arms=(
        Arm(name="transformer-evicted", mixers=("attention",) * 2),
        Arm(name="transformer-whole", mixers=("attention",) * 2, whole=True),
        *_sleepers(1, 2, 4),
    ),
    data=Data(validation_rows=512, test_rows=1600, seed=5),
    seeds=(30,),
)


def _sliding(pipeline: Pipeline, name: str, window: int, fresh_steps: int) -> Pipeline:
    """Fig. 5: a transformer first; then fast-weight blocks are put in, warmed up alone under hard eviction for the
    first steps, and all is trained under sliding eviction, beside the transformer that is trained on as long."""
    attention = tuple(mixer for mixer in pipeline.model.mixers if mixer == "attention")
    longer = Arm(name="transformer-longer", mixers=attention, start="transformer")
    grown = [Arm(name=f"n{n}", sleep_passes=n, start="transformer", fresh_steps=fresh_steps) for n in (1, 2, 4)]
    model = replace(pipeline.model, window=window, eviction="sliding")
    return replace(pipeline, name=name, model=model, arms=(Arm(name="transformer", mixers=attention), longer, *grown))


def _rules(pipeline: Pipeline, name: str, passes: tuple[int, ...]) -> Pipeline:
    """Every update rule at every N."""
    arms = [
        Arm(
            name=f"{rule}-n{n}",
            sleep_passes=n,
            mixers=tuple(rule if mixer == "gated_delta" else mixer for mixer in pipeline.model.mixers),
        )
        for rule in RULES
        for n in passes
    ]
    return replace(pipeline, name=name, arms=tuple(arms))


def _etas(pipeline: Pipeline, name: str, passes: tuple[int, ...]) -> Pipeline:
    """Every eta at every N."""
    etas = (0.25, 0.5, 1.0, 1.5, 2.0)
    arms = [Arm(name=f"eta{eta:g}-n{n}", sleep_passes=n, fast_weight_lr=eta) for n in passes for eta in etas]
    return replace(pipeline, name=name, arms=tuple(arms))


def _throughput(pipeline: Pipeline, name: str, windows: tuple[int, ...], passes: tuple[int, ...]) -> Pipeline:
    """Fig. 6: a few steps at every window and N; tokens/s stand in the report."""
    arms = [Arm(name=f"window{w}-n{n}", window=w, sleep_passes=n) for w in windows for n in passes]
    return replace(pipeline, name=name, arms=tuple(arms), seeds=(0,), registers=False)


_ALL = (
    _DEMO,
    replace(
        _DEMO,
        name="smoke",
        model=replace(_DEMO.model, d_model=16, key_dim=16, value_dim=16),
        train=TrainConfig(steps=20, batch_size=32, validate_every=10, warmup_steps=5),
        arms=(Arm(name="n1", evaluated_at=(2,)),),
        seeds=(20, 21),
        search=Search(trials=2, sleep_passes=(1, 2), grace=2),
        data=Data(seed=7, validation_rows=64, test_rows=256),
    ),
    replace(
        _PAPER,
        name="rule110-fig2a",
        task=_rule110(4),
        train=replace(_PAPER_TRAIN, steps=_FIG2_STEPS // 5),
        arms=tuple(Arm(name=f"n1-t{depth}", depth=depth) for depth in (4, 8, 12, 16)),
    ),
    replace(
        _MINI, name="rule110-fig2a-mini", arms=tuple(Arm(name=f"n1-t{depth}", depth=depth) for depth in (2, 4, 6, 8))
    ),
    _PAPER,
    replace(
        _MINI,
        name="rule110-fig2b-mini",
        arms=_controls(4)
        + _sleepers(2, 4)
        + (Arm(name="any", sleep_passes=2, drawn_passes=(1, 2, 4), evaluated_at=(3, 8)),),
        seeds=(40, 41, 42),
    ),
    replace(
        _MINI,
        name="rule110-rows-mini",
        train=replace(_MINI.train, rows=2048),
        arms=(Arm(name="n1"), *_sleepers(2, 4), Arm(name="n1-same-compute", compute_of=4)),
        seeds=(40, 41, 42),
    ),
    replace(
        _MINI,
        name="rule110-by-t-mini",
        arms=tuple(
            Arm(name=f"n{n}-t{depth}", sleep_passes=n, depth=depth) for depth in (2, 4, 8, 10) for n in (1, 2, 4)
        ),
        seeds=(40, 41, 42),
    ),
    _DEPO_PAPER,
    replace(
        _MINI,
        name="depo-fig3-mini",
        task=_DEPO_MINI,
        model=ModelConfig(
            vocab_size=len(_DEPO_MINI.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=24, fast_heads=1
        ),
        train=TrainConfig(steps=6000, batch_size=64, validate_every=200),
        arms=(Arm(name="transformer-evicted", mixers=("attention",) * 2), *_sleepers(1, 2, 4)),
        seeds=(30,),
    ),
    _GSM_PAPER,
    _GSM_SMALL,
    _sliding(_GSM_PAPER, "gsm-sliding-fig5", window=512, fresh_steps=2000),
    _sliding(
        replace(
            _GSM_SMALL,
            model=replace(_GSM_SMALL.model, mixers=HYBRID * 2),
            train=replace(_GSM_SMALL.train, steps=600),
        ),
        "gsm-sliding-fig5-mini",
        window=64,
        fresh_steps=150,
    ),
    _throughput(
        replace(
            _GSM_PAPER,
            task=Gsm(tokens=(8000, 8192)),
            model=replace(_GSM_PAPER.model, window=1024),
            train=replace(_GSM_PAPER.train, steps=20, batch_size=8, validate_every=10),
        ),
        "throughput-fig6",
        windows=(1024, 2048, 4096),
        passes=(1, 2, 4),
    ),
    _throughput(
        replace(
            _GSM_SMALL,
            task=Gsm(tokens=(900, 1024)),
            train=TrainConfig(steps=10, batch_size=8, validate_every=5, warmup_steps=5),
            data=Data(validation_rows=16, test_rows=16, seed=5),
        ),
        "throughput-fig6-mini",
        windows=(64, 128, 256, 512),
        passes=(1, 2, 4),
    ),
    replace(
        _MINI,
        name="curriculum-mini",
        task=_CLIMB,
        model=replace(
            _MINI.model,
            vocab_size=len(_CLIMB.vocabulary),
            window=_CLIMB.context_length,
            max_positions=_CLIMB.row_length,
        ),
        train=TrainConfig(
            steps=2000, batch_size=64, validate_every=50, curriculum=Curriculum(threshold=0.9, review=True)
        ),
        arms=(
            Arm(name="n1-all-at-once", curriculum=Curriculum()),
            Arm(name="n1"),
            Arm(name="n4", sleep_passes=4),
            Arm(
                name="pass-a-step",
                sleep_passes=_CLIMB.steps,
                curriculum=Curriculum(threshold=0.9, review=True, steps_per_pass=1),
            ),
        ),
        seeds=(30,),
    ),
    _rules(_PAPER, "ablation-rule", (1, 4)),
    _rules(replace(_MINI, seeds=(30, 31)), "ablation-rule-mini", (1, 4)),
    _etas(_PAPER, "ablation-eta", (1, 4)),
    _etas(replace(_MINI, seeds=(30, 31)), "ablation-eta-mini", (1, 2)),
)
PRESETS = {pipeline.name: pipeline for pipeline in _ALL}
