"""The training loop. It needs torch alone: what saves, reports or distributes a training is passed in.

A training is a function of (model config, train config, rows). The seed determines the initial weights, seed and step
determine the rows of a batch (batches.py): a checkpoint needs no data position.
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
from sleepmodel.accounting import flops
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
    """The loss or the gradient is not finite; the last checkpoint is good."""


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
    """Train to `config.steps` and return the learning curve, with the reports from before a resume.

    validate: gives the model's accuracy on the validation rows of a level (None: on all of them);
    report: called with a `Progress` and a `Save` every `validate_every` steps and at the end;
    resume: a directory that a `Save` wrote;
    between: called after every other step with the number of steps done and a `Save`; it may end the run by raising.
    Every worker must save at the same step.
    Raises NonFiniteError, with step, rates and norm, where loss or gradient are not finite and `config.skips` are used
    up.
    """
    keep_freed_memory()
    history, done = _load(engine, resume) if resume else ([], _Done())
    begin = time.monotonic() - done.seconds
    lap, lap_tokens = time.monotonic(), done.tokens  # without the time that validation and reports take
    sampler, warmup = _sampler(rows, config, history), _NewLayerWarmup(engine.model, config)
    cost, window = functools.cache(functools.partial(flops, engine.model)), engine.model.config.window

    def save(directory: Path) -> None:
        done.seconds = time.monotonic() - begin
        _save(engine, history, done, directory)

    for step in range(done.step, config.steps):
        rate = schedule(step, config) * config.backoff**done.skipped
        eviction = warmup.eviction(step)
        (batch, passes), micro = sampler.batch(step), []
        # each answer token counts the same, in whatever pieces the batch is computed
        answers = batch.loss_mask().sum() / (engine.workers * engine.accumulation)
        for part in split_batch(batch, engine.rank, engine.workers, engine.accumulation):
            tokens, mask = map(torch.from_numpy, part.batch())
            micro.append(engine.backward(tokens, mask, passes, float(mask.sum() / answers), eviction))
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
        # windows that hold pads alone are not computed
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
                accuracy=validate(engine.model, sampler.level),
                flops=done.flops,
                level=sampler.level,
                skipped=done.skipped,
            )
            sampler.validated(at.accuracy)
            done.losses.clear()
            done.norm = math.nan
            history.append(at)
            report(at, save)
            lap, lap_tokens = time.monotonic(), done.tokens
        else:
            between(done.step, save)
    return history


def _sampler(rows: Rows | Blocks, config: TrainConfig, history: list[Progress]) -> BatchSampler:
    blocks = rows if isinstance(rows, Blocks) else Blocks.of(rows)
    blocks = blocks.first(config.rows) if config.rows else blocks
    if not config.curriculum.by_level:
        return BatchSampler(blocks, config)
    last = history[-1] if history else None
    opened = (last.level, last.accuracy) if last and last.level is not None else None
    return CurriculumSampler(blocks, config, opened)


@dataclass
class _Done:
    """What a run has done so far. losses: this worker's, of each step since the last report that was not skipped;
    norm: of the gradient of the last such step."""

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
        self.steps, self.alone = config.fresh_steps, False
        fresh = {id(p) for block in model.stack if not isinstance(block.mixer, Attention) for p in block.parameters()}
        for parameter in model.parameters() if config.fresh_steps else ():
            if id(parameter) not in fresh:
                parameter.register_hook(lambda gradient: torch.zeros_like(gradient) if self.alone else gradient)

    def eviction(self, step: int) -> str | None:
        """The eviction of a step; None is the model's own."""
        self.alone = step < self.steps
        return "hard" if self.alone else None


def _save(engine: Engine, history: list[Progress], done: _Done, directory: Path) -> None:
    # means over the workers, as any of them, and any number, may go on from here
    so_far = replace(done, losses=[engine.mean(loss) for loss in done.losses])
    reports = [asdict(at) for at in history]
    engine.save(directory, {"history": reports, "done": asdict(so_far), "rng": torch.get_rng_state()})


def _load(engine: Engine, directory: Path) -> tuple[list[Progress], _Done]:
    state = engine.load(directory)
    torch.set_rng_state(state["rng"])
    return [Progress(**at) for at in state["history"]], _Done(**state["done"])
