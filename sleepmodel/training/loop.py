"""The training loop: one process, torch alone. What saves, reports, or spreads it over workers is passed in.

A run is a function of (model config, train config, rows): the weights start from the seed, and the rows of a step
follow from it (batches.py), so that the data position is the step.
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
from sleepmodel.config import ModelConfig, TrainConfig
from sleepmodel.mixers.attention import Attention
from sleepmodel.model import SleepModel
from sleepmodel.training.allocator import keep_freed_memory
from sleepmodel.training.batches import BatchSampler, CurriculumSampler, split_batch
from sleepmodel.training.engine import Engine
from sleepmodel.training.optim import schedule
from sleepmodel.training.progress import Progress

Save = Callable[[Path], None]  # writes a complete checkpoint into an empty directory


class NonFiniteError(RuntimeError):
    """The loss or the gradient is no longer a number; the last checkpoint is good."""


def build_model(model: ModelConfig, train: TrainConfig, recompute: str = "nothing") -> SleepModel:
    """A fresh model whose weights depend on the configs alone."""
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
    """Train to `config.steps` and return every report, those before a resume too.

    validate: accuracy of the model on rows of a level, of all for None; report: told every `validate_every` steps and
    at the end; resume: a directory that its `Save` wrote; between: told after every other step how many are done, and
    may end the run by an exception. Every worker must save at the same step.
    Raises NonFiniteError, with step, rates and norm, where loss or gradient are no longer numbers and `config.skips`
    does not pass over it.
    """
    keep_freed_memory()
    history, done = _load(engine, resume) if resume else ([], _Done())
    begin = time.monotonic() - done.seconds
    lap, lap_tokens = time.monotonic(), done.tokens  # without the time that validation and reports take
    plan, stage = _plan(rows, config, history), _NewLayerWarmup(engine.model, config)
    cost, window = functools.cache(engine.model.flops), engine.model.config.window

    def save(directory: Path) -> None:
        done.seconds = time.monotonic() - begin
        _save(engine, history, done, directory)

    for step in range(done.step, config.steps):
        rate = schedule(step, config) * config.backoff**done.skipped
        stage.begin(step)
        (batch, passes), micro = plan.batch(step), []
        # each answer token counts the same, in whatever pieces the batch is computed
        answers = batch.loss_mask().sum() / (engine.workers * engine.accumulation)
        for part in split_batch(batch, engine.rank, engine.workers, engine.accumulation):
            tokens, mask = map(torch.from_numpy, part.batch())
            micro.append(engine.backward(tokens, mask, passes, float(mask.sum() / answers)))
        loss = float(torch.stack(micro).mean())
        norm = engine.step(rate)
        # the norm is one for all workers, so that all skip the same batches; a loss is each worker's own
        if not math.isfinite(norm) and done.skipped < config.skips:
            done.skipped += 1
        elif not math.isfinite(loss + norm):
            raise NonFiniteError(
                f"step {step}: loss {loss}, gradient norm {norm}, muon_lr {config.muon_lr * rate:.2e}, adam_lr "
                f"{config.adam_lr * rate:.2e}: not finite, after {done.skipped} of skips = {config.skips}. The last "
                "checkpoint is good; go on from it with lower rates"
            )
        else:
            done.losses.append(loss)
            done.norm = norm
        done.step += 1
        real = batch.lengths - batch.pads
        done.tokens += int(real.sum())
        # windows of pads alone are not computed
        done.flops += 3 * sum(cost(int(length), passes) for length in real + batch.pads % window)
        if done.step % config.validate_every == 0 or done.step == config.steps:
            now = time.monotonic()
            at = Progress(
                step=done.step,
                steps=config.steps,
                tokens=done.tokens,
                seconds=now - begin,
                tokens_per_second=(done.tokens - lap_tokens) / (now - lap),
                loss=engine.mean(sum(done.losses) / len(done.losses) if done.losses else math.nan),
                grad_norm=done.norm,
                rate=rate,
                accuracy=validate(stage.whole(), plan.level),
                flops=done.flops,
                level=plan.level,
                skipped=done.skipped,
            )
            plan.validated(at.accuracy)
            done.losses.clear()
            done.norm = math.nan
            history.append(at)
            report(at, save)
            lap, lap_tokens = time.monotonic(), done.tokens
        else:
            between(done.step, save)
    return history


def _plan(rows: Rows | Blocks, config: TrainConfig, history: list[Progress]) -> BatchSampler:
    blocks = rows if isinstance(rows, Blocks) else Blocks.of(rows)
    blocks = blocks.first(config.rows) if config.rows else blocks
    if not config.curriculum.by_level:
        return BatchSampler(blocks, config)
    last = history[-1] if history else None
    opened = (last.level, last.accuracy) if last and last.level is not None else None
    return CurriculumSampler(blocks, config, opened)


@dataclass
class _Done:
    """What a run has done by now, also since its last report. losses: of each step since then that was not skipped,
    this worker's; norm: of the last such step's gradient."""

    step: int = 0
    tokens: int = 0
    flops: int = 0
    skipped: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norm: float = math.nan


class _NewLayerWarmup:
    """The first `fresh_steps` steps: hard eviction, and no gradient but for the fast-weight blocks'."""

    def __init__(self, model: SleepModel, config: TrainConfig) -> None:
        self.model, self.steps, self.alone = model, config.fresh_steps, False
        fresh = {id(p) for block in model.stack if not isinstance(block.mixer, Attention) for p in block.parameters()}
        for parameter in model.parameters() if config.fresh_steps else ():
            if id(parameter) not in fresh:
                parameter.register_hook(lambda gradient: torch.zeros_like(gradient) if self.alone else gradient)

    def begin(self, step: int) -> None:
        self.alone = step < self.steps
        self.model.set_eviction("hard" if self.alone else self.model.config.eviction)

    def whole(self) -> SleepModel:
        """The model as it will be used."""
        self.model.set_eviction(self.model.config.eviction)
        return self.model


def _save(engine: Engine, history: list[Progress], done: _Done, directory: Path) -> None:
    # means over the workers, as any of them, and any number, may go on from here
    so_far = replace(done, losses=[engine.mean(loss) for loss in done.losses])
    reports = [asdict(at) for at in history]
    engine.save(directory, {"history": reports, "done": asdict(so_far), "rng": torch.get_rng_state()})


def _load(engine: Engine, directory: Path) -> tuple[list[Progress], _Done]:
    state = engine.load(directory)
    torch.set_rng_state(state["rng"])
    return [Progress(**at) for at in state["history"]], _Done(**state["done"])
