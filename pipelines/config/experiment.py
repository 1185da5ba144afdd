"""An experiment: a task, a model, a training, the variants to compare, and a search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from datagen import Task, check_task
from datagen.checks import require, require_whole
from datagen.rows import Ragged
from datagen.shard_size import rows_per_shard
from pipelines.config.pretrained import Pretrained
from pipelines.config.variant import WINNER, WINNER_AT_N1, Variant, with_own
from sleepmodel import ModelConfig, Scale, SleepModel, TrainConfig
from sleepmodel.accounting import training_flops
from sleepmodel.config.training import MAX_SEED, Curriculum, Search, check_compatible, check_equal_blocks
from sleepmodel.training.optim import freeze
from sleepmodel.training.traces import PROBE_ROWS, check_trainable
from sleepmodel.warm_start import warm_start


@dataclass(frozen=True, kw_only=True)
class Data:
    """The rows of each split. train_rows: None: as many as the longest training reads, so that none is read twice
    (tasks with few distinct rows repeat them all the same). seed: of the datasets, not of the training."""

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
class Experiment:
    """Everything that shapes a pipeline's results, and `scale`, which does not.

    pretrained: the model that trainings begin with, if there is one.
    variants: the baselines; seeds: of every variant, but for those with `most_seeds`.
    search: over N and eta; its winner becomes a variant. search_seed: not one of `seeds`, so that the winner is not
        chosen by the trainings that it is compared with.
    paper_scale: too large for CPUs; only `--force` runs it there. registers: whether to register the best model.
    champions: the variants of which it may be one; (): see `candidates`.
    """

    name: str
    task: Task
    model: ModelConfig
    train: TrainConfig
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    search: Search | None = None
    search_seed: int = 1000
    data: Data = field(default_factory=Data)
    scale: Scale = field(default_factory=Scale)
    pretrained: Pretrained = field(default_factory=Pretrained)
    paper_scale: bool = False
    registers: bool = True
    champions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check_fields()
        for i, variant in enumerate(self.variants):
            with _prefixed(f"variant {variant.name}"):
                task, model, train = self.variant_task(variant), self.variant_model(variant), self._step_config(variant)
                _check_fits(task, model, variant.whole)
                check_compatible(train, self.scale)
                if self.scale.zero_stage == 3:
                    row = task.sample("train", self.data.seed, shard=0, rows=1)
                    check_equal_blocks(self.scale, isinstance(row.tokens, Ragged))
                if train.rows is not None and self.data.train_rows is not None:
                    allowed = f"at most data.train_rows = {self.data.train_rows}"
                    require(train.rows <= self.data.train_rows, "train.rows", train.rows, allowed)
            self._check_fields_of(variant, [earlier.name for earlier in self.variants[:i]])
            self._check_seeds(variant)
            self._check_curriculum(variant)
            with _prefixed(f"variant {variant.name}"):
                self._check_traces(task, model, train)
        self._check_search()
        self._check_champions()

    def _check_fields(self) -> None:
        """Raise ValueError where the experiment's own fields do not fit each other."""
        _check_fits(self.task, self.model)
        names = [variant.name for variant in self.variants]
        require(len(set(names)) == len(names), "variants", names, "variants of different names")
        require(bool(names) or self.search is not None, "variants", names, "at least one variant without a search")
        distinct = len(set(self.seeds)) == len(self.seeds) > 0 and min(self.seeds) >= 0 and max(self.seeds) <= MAX_SEED
        require(distinct, "seeds", self.seeds, f"at least one seed, all different, from 0 to {MAX_SEED}")
        for name in ("sleep_passes", "fast_weight_lr"):
            value = getattr(self.model, name)
            allowed = (
                "1: the preset's variants and its search set it (search.sleep_passes, search.eta_low, search.eta_high)"
            )
            require(value == 1, f"model.{name}", value, allowed)
        rows = self.data.train_rows
        allowed = f"at least one batch of {self.train.batch_size}"
        require(rows is None or rows >= self.train.batch_size, "data.train_rows", rows, allowed)
        require_whole("train.steps", self.train.steps, 1)
        require(self.train.seed == TrainConfig.seed, "train.seed", self.train.seed, f"{TrainConfig.seed}: set seeds")
        check_compatible(self.train, self.scale)

    def _check_fields_of(self, variant: Variant, before: list[str]) -> None:
        """Raise ValueError where a variant's fields do not fit each other. before: the names of the variants before."""
        allowed = f"one of the variants before it, {before}, or null"
        require(variant.start in (None, *before), f"start of {variant.name}", variant.start, allowed)
        if variant.most_seeds is not None:
            require_whole(f"most_seeds of {variant.name}", variant.most_seeds, 1)
        for passes in variant.evaluated_at:
            require_whole(f"evaluated_at of {variant.name}", passes, 1)
        share, whole = variant.share_of_steps, variant.compute_of is None
        allowed = "a number in [0, 1], and 1 with compute_of"
        require(0 <= share <= 1 and (whole or share == 1), f"share_of_steps of {variant.name}", share, allowed)
        trained, inserted = variant.trained or self.train.trained, self.variant_model(variant).inserted
        allowed = "all without inserted blocks"
        require(trained == "all" or bool(inserted), f"trained of {variant.name}", trained, allowed)

    def _check_seeds(self, variant: Variant) -> None:
        """Raise ValueError where a variant has a seed that its `start` lacks."""
        if variant.start is None:
            return
        earlier = next(other for other in self.variants if other.name == variant.start)
        seeds, theirs = self.variant_seeds(variant), self.variant_seeds(earlier)
        allowed = f"at most {len(theirs)}, not null, as {variant.name} starts from {earlier.name}, which has no more"
        require(seeds == theirs[: len(seeds)], f"most_seeds of {variant.name}", variant.most_seeds, allowed)

    def _check_curriculum(self, variant: Variant) -> None:
        """Raise ValueError where a variant's N is not the one that its curriculum has for the deepest rows."""
        deepest, model = self.variant_task(variant).max_depth, self.variant_model(variant)
        passes = self.variant_curriculum(variant).passes(deepest, model.reads_first)
        if passes is not None:
            allowed = f"{passes}, the N of the deepest rows by curriculum.steps_per_pass"
            require(variant.sleep_passes == passes, f"sleep_passes of {variant.name}", variant.sleep_passes, allowed)
            require(
                not variant.evaluated_at,
                f"evaluated_at of {variant.name}",
                variant.evaluated_at,
                "empty with steps_per_pass",
            )
            require(
                variant.compute_of is None,
                f"compute_of of {variant.name}",
                variant.compute_of,
                "null with steps_per_pass",
            )

    def _check_traces(self, task: Task, model: ModelConfig, train: TrainConfig) -> None:
        """Raise ValueError where a model cannot be trained on the traces of a task."""
        if train.trace_weight:
            rows = min(PROBE_ROWS, rows_per_shard(task))
            check_trainable(task.sample("train", self.data.seed, 0, rows), model, train)

    def _check_search(self) -> None:
        """Raise ValueError where the search does not fit the rest."""
        require_whole("search_seed", self.search_seed, 0, MAX_SEED)
        require(self.search_seed not in self.seeds, "search_seed", self.search_seed, "a seed that is not in seeds")
        if self.search is None:
            return
        taken = {variant.name for variant in self.variants} & {WINNER, WINNER_AT_N1}
        require(not taken, "variants", sorted(taken), "variants of other names, as the search's winner has these")
        by_level, why = self.train.curriculum.by_level, "its trials would be validated on different levels"
        require(not by_level, "search", self.search, f"null with train.curriculum: {why}")
        try:  # at N = 1, the least that there can be
            self._check_traces(self.task, self.model, self.train)
        except ValueError as error:
            message = f"search, whose winner's eta is trained at N = 1 too: {error}, and search = null"
            raise ValueError(message) from error

    def _check_champions(self) -> None:
        """Raise ValueError where the champions are no variants, or are tested on another task."""
        names = [variant.name for variant in self.variants]
        require(set(self.champions) <= set(names), "champions", self.champions, f"some of the variants, {names}")
        alike = {self.variant_task(variant) for variant in self.variants if variant.name in self.champions}
        require(not alike - {self.task}, "champions", self.champions, "variants with the experiment's own task")

    def changed(self, **fields: Any) -> Experiment:
        """A copy with new values of `fields`; --set calls it.

        The model's vocab_size and max_positions depend on the task: they follow a new task, unless they are set too.
        What a pretrained model computes follows its files, and cannot be set; the task gets its tokenizer. Raises
        ValueError where a task of another class, from outside datagen, does not keep the contract of tasks.
        """
        task, model, pretrained = (fields.get(name, getattr(self, name)) for name in ("task", "model", "pretrained"))
        pretrained.check_effect(self.pretrained, "pretrained.")
        if type(task) is not type(self.task) and type(task).__module__.partition(".")[0] != "datagen":
            check_task(task)
        if pretrained.model:
            task, model = pretrained.applied(task, model, self.model)
        elif not pretrained.source and task != self.task:
            if model.vocab_size == self.model.vocab_size:
                model = replace(model, vocab_size=len(task.vocabulary))
            if model.max_positions is not None and model.max_positions == self.model.max_positions:
                model = replace(model, max_positions=task.row_length)
        found = replace(self, **{**fields, "task": task, "model": model})
        found._check_effect(self, fields)
        return found

    def _check_effect(self, before: Experiment, fields: dict[str, Any]) -> None:
        """Raise ValueError where `fields` change what every variant has of its own, so that no training would differ.

        before: the experiment that was changed.
        """
        # trials of a search have the experiment's own, and `compute_of` counts the steps of its training
        if "variants" in fields or self.search or any(variant.compute_of for variant in self.variants):
            return
        pairs = list(zip(before.variants, self.variants, strict=True))
        own: dict[str, list[tuple[Any, Any]]] = {
            "task": [(before.variant_task(old), self.variant_task(new)) for old, new in pairs],
            "model": [(before.variant_model(old), self.variant_model(new)) for old, new in pairs],
            "train": [(before._step_config(old), self._step_config(new)) for old, new in pairs],
        }
        for group in own.keys() & fields.keys():
            for name, (old, new) in _changed_fields(getattr(before, group), fields[group]).items():
                alike = all(getattr(a, name) == getattr(b, name) for a, b in own[group])
                allowed = f"{old!r}: every variant of {self.name} has its own, so that another would have no effect"
                require(not alike, f"{group}.{name}", new, allowed)

    def check_weights(self) -> None:
        """Raise ValueError where the experiment needs a pretrained model that is not given."""
        if self.pretrained.source and self.pretrained.model is None:
            raise ValueError(
                f"pretrained.model = None: {self.name} begins with {self.pretrained.source}. Then give its directory: "
                "--set pretrained.model=DIRECTORY"
            )

    def check_starts(self) -> None:
        """Raise ValueError where a variant cannot begin with the model of its `start`, or the pretrained one. Not a
        part of making an Experiment, as it builds their models, without weights."""
        models = {variant.name: self.variant_model(variant) for variant in self.variants}
        for variant in self.variants:
            with _prefixed(f"variant {variant.name}, which starts from {variant.start or self.pretrained.model}"):
                if variant.start is None:
                    self.pretrained.check_start(models[variant.name])
                else:
                    warm_start(*map(SleepModel.without_weights, (models[variant.name], models[variant.start])))
        if self.search:
            with _prefixed(f"search, whose trials start from {self.pretrained.model}"):
                self.pretrained.check_start(self.model)

    def variant_model(self, variant: Variant) -> ModelConfig:
        """The variant's architecture."""
        task, own = self.variant_task(variant), dict(variant.model or {})
        mixers = (variant.mixers or self._with_inserted(variant.inserted_mixer)) * variant.repeat
        # a variant's own `loop` is of its own stack; the experiment's has no meaning in one of another depth
        loop = own.pop("loop", self.model.loop if len(mixers) == len(self.model.mixers) else None)
        model = with_own(self.model, own, f"model of {variant.name}")
        window = task.row_length if variant.whole else variant.window or model.window
        return replace(
            model,
            # a task of the variant's own may have more tokens, and longer rows
            vocab_size=max(model.vocab_size, len(task.vocabulary)),
            max_positions=model.max_positions and max(model.max_positions, task.row_length),
            window=window,
            mixers=mixers,
            loop=loop,
            inserted=self._inserted(variant, mixers),
            eviction=variant.eviction or model.eviction,
            sleep_passes=variant.sleep_passes,
            fast_weight_lr=variant.fast_weight_lr,
        )

    def _inserted(self, variant: Variant, mixers: tuple[str, ...]) -> tuple[int, ...]:
        if variant.inserted is not None:
            return variant.inserted
        return self.model.inserted if mixers == self._with_inserted(variant.inserted_mixer) else ()

    def _with_inserted(self, mixer: str | None) -> tuple[str, ...]:
        """The mixers of the model, its inserted ones of another kind; None: of their own."""
        model = self.model
        return tuple(mixer if mixer and i in model.inserted else own for i, own in enumerate(model.mixers))

    def variant_task(self, variant: Variant) -> Task:
        """The variant's task."""
        task = self.task if variant.depth is None else self.task.with_depth(variant.depth)
        return with_own(task, variant.task, f"task of {variant.name}")

    def variant_train(self, variant: Variant) -> TrainConfig:
        """The variant's training."""
        train, read = self._step_config(variant), self.train.steps * self.train.batch_size
        rows = min(read, train.rows or read) if variant.epochs else train.rows
        return replace(train, steps=self.variant_steps(variant), rows=rows)

    def _step_config(self, variant: Variant) -> TrainConfig:
        """The variant's training but for the number of its steps and rows."""
        train = with_own(self.train, variant.train, f"train of {variant.name}")
        return replace(
            train,
            trained=variant.trained or self.train.trained,
            curriculum=self.variant_curriculum(variant),
            sleep_passes=variant.drawn_passes or train.sleep_passes,
        )

    def variant_curriculum(self, variant: Variant) -> Curriculum:
        """The curriculum of the variant's training."""
        return variant.curriculum or self.train.curriculum

    def variant_seeds(self, variant: Variant) -> tuple[int, ...]:
        """The seeds of the variant's trainings."""
        return self.seeds[: variant.most_seeds]

    def candidates(self) -> list[str]:
        """The variants whose models may be registered: none without `registers`; `champions`; or else the search's
        winner; or else those that evict, are trained, and have an N that no curriculum sets, on the experiment's own
        task."""
        if not self.registers:
            return []
        if self.champions or self.search:
            return list(self.champions) or [WINNER]
        return [
            variant.name
            for variant in self.variants
            if not variant.whole
            and self.variant_steps(variant)
            and self.variant_task(variant) == self.task
            and self.variant_curriculum(variant).steps_per_pass is None
        ]

    def tasks(self) -> list[Task]:
        """The distinct tasks of all variants and of the search."""
        searched = [self.task] if self.search else []
        return list(dict.fromkeys([*map(self.variant_task, self.variants), *searched]))

    def variant_steps(self, variant: Variant) -> int:
        """The number of optimiser steps of the variant's training."""
        if variant.compute_of is None:
            return max(int(variant.share_of_steps > 0), round(variant.share_of_steps * self.train.steps))
        own = self._step_config(variant)
        other = replace(self.model, sleep_passes=variant.compute_of)
        step = step_flops(other, replace(self.train, sleep_passes=()), self.task)
        return round(self.train.steps * step / step_flops(self.variant_model(variant), own, self.variant_task(variant)))

    def train_rows(self, task: Task | None = None) -> int:
        """Rows of the training split of a task, None for the experiment's own: enough for the longest training on it,
        unless data.train_rows is set."""
        task = task or self.task
        configs = [self.variant_train(variant) for variant in self.variants if self.variant_task(variant) == task]
        if not configs or (self.search and task == self.task):
            configs.append(self.train)
        return self.data.train_rows or max(config.rows or config.steps * config.batch_size for config in configs)

    def data_name(self, task: Task) -> str:
        """What tells the datasets of several tasks apart: "" for the experiment's own."""
        if task == self.task:
            return ""
        first = next(variant for variant in self.variants if self.variant_task(variant) == task)
        return first.name if first.task else f"t{task.max_depth}"


def step_flops(model: ModelConfig, train: TrainConfig, task: Task) -> float:
    """FLOPs of one training step on rows of the greatest length; with traces, as if every pass had one. Where N is
    drawn for each batch: the mean. A model that sleeps on all windows is assumed to predict in each one after the
    context."""
    built = SleepModel.without_weights(model)
    freeze(built, train.trained)
    length, asked = task.row_length, None
    if model.sleep_on == "all":
        read = (task.context_length or 0) // model.window
        asked = [i >= read for i in range(-(-length // model.window))]
    each = train.sleep_passes or (model.sleep_passes,)
    traces = {n: max(0, n - model.reads_first) if train.trace_weight else 0 for n in each}
    return train.batch_size * sum(training_flops(built, length, n, asked, traces[n]) for n in each) / len(each)


def _changed_fields(before: Any, after: Any) -> dict[str, tuple[Any, Any]]:
    """The fields that differ between two configs, each with its two values; {} if they are of two classes."""
    if type(before) is not type(after):
        return {}
    pairs = {each.name: (getattr(before, each.name), getattr(after, each.name)) for each in fields(before)}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


@contextmanager
def _prefixed(what: str) -> Iterator[None]:
    """Names what a ValueError is about at its beginning."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error


def _check_fits(task: Task, model: ModelConfig, whole: bool = False) -> None:
    """Raise ValueError where a model cannot read a task's rows. whole: the model's window holds a whole row."""
    # a model that sleeps on all windows can read any row: its answers may begin windows
    if not whole and model.sleep_on == "prompts":
        try:
            task.check_window(model.window)
        except ValueError as error:
            raise ValueError(f"model.{error}") from error
    positions, allowed = model.max_positions, f"at least the task's row length {task.row_length}, or null"
    require(positions is None or positions >= task.row_length, "model.max_positions", positions, allowed)
    # at least: pretrained models pad their vocabularies
    allowed = f"at least {len(task.vocabulary)}, the task's"
    require(model.vocab_size >= len(task.vocabulary), "model.vocab_size", model.vocab_size, allowed)
