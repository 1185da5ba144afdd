"""The training loop. It needs only torch: its caller passes in what saves, reports and distributes a training.

A training is a function of (model config, train config, rows). The seed determines the initial weights, and seed and
step determine the rows of a batch (batches.py), so a checkpoint needs no position in the data.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from datagen.blocks import Blocks
from datagen.rows import Rows
from sleepmodel.accounting import training_flops
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import TrainConfig
from sleepmodel.inputs import predicting_windows
from sleepmodel.model import SleepModel
from sleepmodel.training.allocator import keep_freed_memory
from sleepmodel.training.batches import BatchSampler, CurriculumSampler, split_batch
from sleepmodel.training.engine import Engine
from sleepmodel.training.optim import schedule
from sleepmodel.training.progress import Progress

CACHED_COSTS = 2**12  # kinds of rows: rows of one task have few
Save = Callable[[Path], None]  # writes a complete checkpoint to an empty directory


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not finite. The last checkpoint is from before that."""


def build_model(model: ModelConfig, train: TrainConfig, recompute: str = "nothing") -> SleepModel:
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

    validate: returns the model's accuracy on the validation rows of a level; None: on all of them;
    report: called with a `Progress` and a `Save` every `validate_every` steps and at the end, also of 0 steps;
    resume: a directory that a `Save` wrote;
    between: called with the number of finished steps and a `Save` after every other step; it may end the run by
    raising. All workers must save at the same step.

    Raises NonFiniteError, which states step, rates and norm, if the loss or the gradient is not finite and all
    `config.skips` are used.
    """
    keep_freed_memory()
    history, state = _load(engine, resume) if resume else ([], _TrainState())
    sampler = _sampler(rows, config, history)
    cost = functools.lru_cache(CACHED_COSTS)(functools.partial(training_flops, engine.model))
    clock = _Clock(state)

    def save(directory: Path) -> None:
        state.seconds = clock.seconds()
        _save(engine, history, state, directory)

    def report_progress(rate: float) -> None:
        progress = _progress(engine, config, state, clock, rate, sampler.level, validate)
        sampler.validated(progress.accuracy)
        state.losses.clear()
        state.norm = math.nan
        history.append(progress)
        report(progress, save)
        clock.start_lap(state)

    for step in range(state.step, config.steps):
        rate = schedule(step, config) * config.backoff**state.skipped
        batch, passes = sampler.batch(step)
        loss = _accumulate_gradient(engine, batch, passes)
        norm = engine.step(rate)
        # all workers have the same norm, and so skip the same batches; each has its own loss
        if not math.isfinite(norm) and state.skipped < config.skips:
            state.skipped += 1
        elif not math.isfinite(loss + norm):
            raise _not_finite(state, loss, norm, rate, config)
        else:
            state.losses.append(loss)
            state.norm = norm
        state.step += 1
        state.tokens += int((batch.lengths - batch.pads).sum())
        state.flops += _batch_flops(batch, passes, engine.model.config.window, cost)
        if state.step % config.validate_every == 0 or state.step == config.steps:
            report_progress(rate)
        else:
            between(state.step, save)
    if not history:  # of 0 steps
        report_progress(0.0)
    return history


def _batch_flops(batch: Rows, passes: int | None, window: int, cost: Callable[..., int]) -> int:
    """FLOPs of a step. cost: of one row, as `training_flops` of the model."""
    asked = predicting_windows(torch.from_numpy(batch.loss_mask()), window)
    empty = batch.pads // window  # windows that hold only pads are not computed
    return sum(
        cost(int(length), passes, tuple(row[first:].tolist()))
        for length, first, row in zip(batch.lengths - empty * window, empty, asked, strict=True)
    )


def _not_finite(state: _TrainState, loss: float, norm: float, rate: float, config: TrainConfig) -> NonFiniteError:
    return NonFiniteError(
        f"step {state.step}: loss {loss}, gradient norm {norm}, muon_lr {config.muon_lr * rate:.2e}, adam_lr "
        f"{config.adam_lr * rate:.2e}: not finite, after {state.skipped} of skips = {config.skips}. Resume "
        "from the last checkpoint with lower rates"
    )


def _accumulate_gradient(engine: Engine, batch: Rows, passes: int | None) -> float:
    """Forward and backward of this worker's micro-batches; returns their mean loss."""
    losses = []
    # an answer token has the same weight however the batch is split
    answers = batch.loss_mask().sum() / (engine.workers * engine.accumulation)
    for part in split_batch(batch, engine.rank, engine.workers, engine.accumulation):
        tokens, mask = map(torch.from_numpy, part.batch())
        losses.append(engine.backward(tokens, mask, passes, float(mask.sum() / answers)))
    return float(torch.stack(losses).mean())


@dataclass
class _TrainState:
    """The counters of a run; checkpoints contain them. losses: of this worker, for each step since the last report that
    was not skipped; norm: of the gradient of the last such step."""

    step: int = 0
    tokens: int = 0
    flops: int = 0
    skipped: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norm: float = math.nan


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
    """Validate, and return the report. Every worker must call it, as it takes means over the workers."""
    return Progress(
        step=state.step,
        steps=config.steps,
        tokens=state.tokens,
        seconds=clock.seconds(),
        tokens_per_second=clock.tokens_per_second(state),
        loss=engine.mean(sum(state.losses) / len(state.losses) if state.losses else math.nan),
        grad_norm=state.norm,
        rate=rate,
        accuracy=validate(engine.model, level),
        flops=state.flops,
        level=level,
        skipped=state.skipped,
    )


def _sampler(rows: Rows | Blocks, config: TrainConfig, history: list[Progress]) -> BatchSampler:
    blocks = rows if isinstance(rows, Blocks) else Blocks.of(rows)
    blocks = blocks.first(config.rows) if config.rows else blocks
    if not config.curriculum.by_level:
        return BatchSampler(blocks, config)
    last = history[-1] if history else None
    opened = (last.level, last.accuracy) if last and last.level is not None else None
    return CurriculumSampler(blocks, config, opened)


def _save(engine: Engine, history: list[Progress], state: _TrainState, directory: Path) -> None:
    # losses as means over the workers, as a resumed run may have another number of them
    state = replace(state, losses=[engine.mean(loss) for loss in state.losses])
    reports = [asdict(progress) for progress in history]
    engine.save(directory, {"history": reports, "done": asdict(state), "rng": torch.get_rng_state()})


def _load(engine: Engine, directory: Path) -> tuple[list[Progress], _TrainState]:
    saved = engine.load(directory)
    torch.set_rng_state(saved["rng"])
    return [Progress(**progress) for progress in saved["history"]], _TrainState(**saved["done"])
