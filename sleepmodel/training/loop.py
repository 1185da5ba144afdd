"""The training loop. It needs only torch: its caller passes in what saves, reports and distributes a training.

A training is a function of (model config, train config, rows). The seed determines the initial weights, and seed and
step determine the rows of a batch (batches.py). Seed, step and worker determine the random numbers that a mixer of your
own may draw. So a checkpoint needs neither a position in the data nor a random state.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datagen.blocks import Blocks
from datagen.checks import require
from datagen.rows import Rows
from sleepmodel.accounting import training_flops
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Recompute, TrainConfig
from sleepmodel.inputs import predicting_windows
from sleepmodel.model import SleepModel
from sleepmodel.modes import in_mode
from sleepmodel.training.allocator import keep_freed_memory
from sleepmodel.training.batches import BatchSampler, CurriculumSampler, Prefetcher, split_batch
from sleepmodel.training.buckets import buckets_of
from sleepmodel.training.engine import Engine, Losses, WeightedTraces, reads_every_step
from sleepmodel.training.optim import schedule
from sleepmodel.training.progress import Progress
from sleepmodel.training.traces import check_trainable, labels_of

CACHED_COSTS = 2**12  # kinds of rows: rows of one task have few
UNREAD_STEPS = 100  # after as many, a GPU's losses and norms are read without a report too
Save = Callable[[Path], None]  # writes a complete checkpoint to an empty directory


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not finite. The last checkpoint is from before that."""


def build_model(model: ModelConfig, train: TrainConfig, recompute: Recompute = "nothing") -> SleepModel:
    """A new model. Its weights depend only on the configs."""
    torch.manual_seed(train.seed)
    return SleepModel(model, recompute, train.truncation)


def train(
    engine: Engine,
    rows: Rows | Blocks,
    config: TrainConfig,
    validate: Callable[[SleepModel, int | None], float],
    report: Callable[[Progress, Save], None],
    resume: Path | None = None,
    between: Callable[[int, Save], None] = lambda step, save: None,
) -> list[Progress]:
    """Train to `config.steps` and return the learning curve, including the reports from before a resume.

    The model trains in training mode and is validated in evaluation mode; at the end it has the mode that it came with.
    Each step seeds torch's random numbers, which stay so at the end.

    config: that of the engine;
    validate: returns the model's accuracy on the validation rows of a level; None: on all of them. Every worker calls
        it, and all must get the same number;
    report: called with a `Progress` and a `Save` every `validate_every` steps and at the end, also of 0 steps;
    resume: a directory that a `Save` wrote;
    between: called with the number of finished steps and a `Save` after every other step; it may end the run by
    raising. All workers must save at the same step.

    Raises ValueError, before the first step, if the engine has another config, or if the rows cannot be trained on with
    this one; NonFiniteError, which states step, rates and norm, if the loss or the gradient is not finite and all
    `config.skips` are used. On a GPU without skips it comes before the next report or save, up to UNREAD_STEPS later.
    """
    _check_config(config, engine.config)
    keep_freed_memory()
    history, state = _load(engine, resume) if resume else ([], _TrainState())
    unread = list[_Step]()
    cost = functools.lru_cache(CACHED_COSTS)(functools.partial(training_flops, engine.model))

    def save(directory: Path) -> None:
        _read(engine, unread, state, config)
        state.seconds = clock.seconds()
        _save(engine, history, state, directory)

    def report_progress(rate: float) -> None:
        _read(engine, unread, state, config)
        with in_mode(engine.model, training=False):
            progress = _progress(engine, config, state, clock, rate, sampler.level, validate)
        sampler.validated(progress.accuracy)
        state.forget()
        history.append(progress)
        report(progress, save)
        clock.start_lap(state)

    with Prefetcher(_training_rows(rows, config)) as reader, in_mode(engine.model, training=True):
        sampler = _sampler(reader, config, engine.model.config, history)
        clock = _Clock(state)
        for step in range(state.step, config.steps):
            rate = schedule(step, config) * config.backoff**state.skipped
            batch, passes = sampler.batch(step)
            torch.manual_seed(_random_seed(config.seed, step, engine.rank))
            losses = _accumulate_gradient(engine, batch, passes, config.trace_weight > 0)
            unread.append(_Step(step, rate, losses, engine.step(rate)))
            if len(unread) == UNREAD_STEPS or reads_every_step(engine.model, config):
                _read(engine, unread, state, config)
            state.step += 1
            state.tokens += int((batch.lengths - batch.pads).sum())
            state.flops += _batch_flops(batch, passes, config.trace_weight > 0, engine.model.config.window, cost)
            if state.step % config.validate_every == 0 or state.step == config.steps:
                report_progress(rate)
            else:
                between(state.step, save)
        if not history:  # of 0 steps
            report_progress(0.0)
    return history


def _check_config(config: TrainConfig, of_engine: TrainConfig) -> None:
    """Raise ValueError unless the two are equal."""
    for each in fields(config):
        given, allowed = getattr(config, each.name), getattr(of_engine, each.name)
        require(
            given == allowed, f"config.{each.name}", given, f"{allowed!r}, as in the engine's: give both one config"
        )


def _random_seed(seed: int, step: int, rank: int) -> int:
    """The seed of a worker's random numbers in a step, on all its devices."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


def _batch_flops(batch: Rows, passes: int | None, traced: bool, window: int, cost: Callable[..., int]) -> int:
    """FLOPs of a step. cost: of one row, as `training_flops` of the model."""
    traces = int(batch.trace_counts.max()) if traced else 0
    asked = predicting_windows(torch.from_numpy(batch.loss_mask()), window)
    empty = batch.pads // window  # windows that hold only pads are not computed
    return sum(
        cost(int(length), passes, tuple(row[first:].tolist()), traces)
        for length, first, row in zip(batch.lengths - empty * window, empty, asked, strict=True)
    )


class _Step(NamedTuple):
    """What a step has computed, on the model's device. norm: of the gradient."""

    number: int
    rate: float
    losses: Losses
    norm: Tensor


def _read(engine: Engine, unread: list[_Step], state: _TrainState, config: TrainConfig) -> None:
    """Count the latest steps, and forget them. Every worker must call it, after the same step. On a GPU this waits for
    the steps."""
    for step, (loss, trace_loss, norm) in zip(unread, _values(engine, unread), strict=True):
        if not math.isfinite(norm) and state.skipped < config.skips:
            state.skipped += 1
        elif not math.isfinite(loss + (trace_loss or 0.0) + norm):
            raise _not_finite(step, state, loss + config.trace_weight * (trace_loss or 0.0), norm, config)
        else:
            state.learned(loss, trace_loss, norm)
    unread.clear()


def _values(engine: Engine, steps: list[_Step]) -> list[tuple[float, float | None, float]]:
    """The loss, the loss of the traces, or None, and the norm of each step, read together."""
    tensors = [torch.stack([x.double() for x in (*step.losses, step.norm) if x is not None]) for step in steps]
    # each worker has its own losses, but all must skip or stop at the same step: a mean shows what is not finite to all
    found = (engine.sum(torch.stack(tensors)) / engine.workers).cpu().tolist() if tensors else []
    return [(loss, traces[0] if traces else None, norm) for loss, *traces, norm in found]


def _not_finite(step: _Step, state: _TrainState, loss: float, norm: float, config: TrainConfig) -> NonFiniteError:
    return NonFiniteError(
        f"step {step.number}: loss {loss}, gradient norm {norm}, muon_lr {config.muon_lr * step.rate:.2e}, adam_lr "
        f"{config.adam_lr * step.rate:.2e}: not finite, after {state.skipped} of skips = {config.skips}. Resume "
        "from the last checkpoint with lower rates"
    )


def _accumulate_gradient(engine: Engine, batch: Rows, passes: int | None, traced: bool) -> Losses:
    """Forward and backward of this worker's micro-batches; returns their mean losses."""
    losses: list[Losses] = []
    pieces, traces = engine.workers * engine.accumulation, None
    if traced:
        labels, counted = labels_of(batch, engine.model.config)
    # an answer token, and a label, has the same weight however the batch is split
    answers = batch.loss_mask().sum() / pieces
    for i, part in enumerate(split_batch(batch, engine.rank, engine.workers, engine.accumulation)):
        tokens, mask = map(torch.from_numpy, part.batch())
        if traced:
            # all pieces get the greatest number of traces, as ZeRO stage 3 needs workers that run the same blocks
            begin = (engine.rank * engine.accumulation + i) * len(part)
            own = slice(begin, begin + len(part))
            weight = pieces * int(counted[own].sum()) / max(1, int(counted.sum()))
            traces = WeightedTraces(labels[own, :, : tokens.shape[1]], weight)
        losses.append(engine.backward(tokens, mask, passes, float(mask.sum() / answers), traces))
    told = [each.traces for each in losses if each.traces is not None]
    answered = torch.stack([each.answers for each in losses]).mean()
    return Losses(answered, torch.stack(told).mean() if told else None)


@dataclass
class _TrainState:
    """The counters of a run; checkpoints contain them. losses, trace_losses: the workers' means, for each step since
    the last report that was not skipped; norm: of the gradient of the last such step."""

    step: int = 0
    tokens: int = 0
    flops: int = 0
    skipped: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norm: float = math.nan
    trace_losses: list[float] = field(default_factory=list)

    def learned(self, loss: float, trace_loss: float | None, norm: float) -> None:
        """Note a step that was not skipped."""
        self.losses.append(loss)
        self.trace_losses += [] if trace_loss is None else [trace_loss]
        self.norm = norm

    def forget(self) -> None:
        """Drop what has been reported."""
        self.losses, self.trace_losses, self.norm = [], [], math.nan


class _Clock:
    """Measures the run, resumes included, and the time since the last report, which excludes validation and reports."""

    def __init__(self, state: _TrainState) -> None:
        self._begin = time.monotonic() - state.seconds
        self.start_lap(state)

    def start_lap(self, state: _TrainState) -> None:
        self._lap, self._lap_tokens = time.monotonic(), state.tokens

    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def tokens_per_second(self, state: _TrainState) -> float:
        return (state.tokens - self._lap_tokens) / (time.monotonic() - self._lap)


def _progress(
    engine: Engine,
    config: TrainConfig,
    state: _TrainState,
    clock: _Clock,
    rate: float,
    level: int | None,
    validate: Callable[[SleepModel, int | None], float],
) -> Progress:
    """Validate, and return the report. Every worker must call it, as `validate` may ask all of them."""
    return Progress(
        step=state.step,
        steps=config.steps,
        tokens=state.tokens,
        seconds=clock.seconds(),
        tokens_per_second=clock.tokens_per_second(state),
        loss=_mean(state.losses),
        grad_norm=state.norm,
        rate=rate,
        accuracy=float(validate(engine.model, level)),  # NumPy's would make checkpoints that cannot be read
        flops=state.flops,
        level=level,
        skipped=state.skipped,
        trace_loss=_mean(state.trace_losses) if config.trace_weight else None,
    )


def _mean(losses: list[float]) -> float:
    return sum(losses) / len(losses) if losses else math.nan


def _training_rows(rows: Rows | Blocks, config: TrainConfig) -> Blocks:
    blocks = rows if isinstance(rows, Blocks) else Blocks.of(rows)
    return blocks.first(config.rows) if config.rows else blocks


def _sampler(reader: Prefetcher, config: TrainConfig, model: ModelConfig, history: list[Progress]) -> BatchSampler:
    buckets = None
    if config.bucket_tokens is not None:
        buckets = functools.partial(buckets_of, model=model, tokens=config.bucket_tokens)
    if config.curriculum.by_level:
        last = history[-1] if history else None
        opened = (last.level, last.accuracy) if last and last.level is not None else None
        sampler: BatchSampler = CurriculumSampler(reader, config, opened, model.reads_first, buckets)
    else:
        sampler = BatchSampler(reader, config, buckets)
    if config.trace_weight:
        check_trainable(reader.read(0), model, config)
    return sampler


def _save(engine: Engine, history: list[Progress], state: _TrainState, directory: Path) -> None:
    reports = [asdict(progress) for progress in history]
    engine.save(directory, {"history": reports, "done": asdict(state)})


def _load(engine: Engine, directory: Path) -> tuple[list[Progress], _TrainState]:
    saved = engine.load(directory)
    return [Progress(**progress) for progress in saved["history"]], _TrainState(**saved["done"])
