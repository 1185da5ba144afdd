"""Two workers under DeepSpeed, without Ray Train: what one of them alone sees is decided by both, at the same step."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from datagen import Rule110, generate, read_rows
from sleepmodel import Scale, TrainConfig
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.training.batches import split_batch
from sleepmodel.training.engine import Losses
from sleepmodel.training.loop import NonFiniteError, build_model, train
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

pytestmark = pytest.mark.slow

WORKERS = 2
LEVELS = Rule110(cells=6, states=1, steps=8, shallowest=1)
PARTITIONED = [
    (1, "muon", "float32"),
    (2, "muon", "bfloat16"),
    (2, "adamw", "bfloat16_weights"),
    (3, "adamw", "float32"),
]
ROWS = TASK.sample("train", 0, 0, 64)


def run_workers(work: Callable[[int], None], place: Path) -> None:
    """Call `work` with its rank in each of two processes of a group. Raises what one of them raises."""
    torch.multiprocessing.spawn(_join, (work, str(place / "store")), WORKERS)


def _join(rank: int, work: Callable[[int], None], store: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(WORKERS), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = "0"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.FileStore(store, WORKERS), rank=rank, world_size=WORKERS)
    work(rank)
    distributed.destroy_process_group()


def test_what_one_worker_is_told_all_know(tmp_path: Path) -> None:
    run_workers(_ask, tmp_path)


def _ask(rank: int) -> None:
    engine = DeepSpeedEngine(build_model(MODEL, CONFIG), CONFIG, Scale(workers=WORKERS))
    answers = [engine.any(rank == 1 and step == 2) for step in range(4)]
    assert answers == [False, False, True, False]


@pytest.mark.parametrize("stage", [0, 3])
def test_each_worker_validates_its_share(ray_cluster: str, tmp_path: Path, stage: int) -> None:
    """And both get the accuracy on all rows, also of a level that has fewer rows than there are workers. With ZeRO
    stage 3, where both must make the same forwards, each predicts all rows."""
    dataset = generate(LEVELS, "validation", 9, 0, tmp_path)
    vocab, window, length = len(LEVELS.vocabulary), LEVELS.context_length, LEVELS.row_length
    model = replace(MODEL, vocab_size=vocab, window=window, max_positions=length)
    scale = Scale(workers=WORKERS, zero_stage=stage)
    job = TrainingJob("two", model, replace(CONFIG, optimizer="adamw", grad_clip=0.0), str(dataset), "", scale=scale)
    run_workers(partial(_validate, job=job), tmp_path)


def _validate(rank: int, job: TrainingJob) -> None:
    rows = read_rows(job.dataset, "validation")
    rare = next(level for level in range(1, LEVELS.steps + 1) if (rows.depths == level).sum() == 1)
    engine, predicted = DeepSpeedEngine(job.build(), job.train, job.scale), list[int]()
    engine.model.register_forward_hook(lambda module, inputs, output: predicted.append(len(inputs[0])))
    validate = job.validate(engine)
    for level, which in ((None, rows), (rare, rows[rows.depths == rare])):
        predicted.clear()
        found = validate(engine.model, level)
        own = len(which) if job.scale.zero_stage == 3 else len(range(rank, len(which), WORKERS))
        assert sum(predicted) == own
        assert found == accuracy(engine.model, which).rows.value


def test_no_two_workers_draw_the_same(tmp_path: Path) -> None:
    run_workers(_draw, tmp_path)


def _draw(rank: int) -> None:
    """The random numbers that a mixer could draw, at each step."""
    engine, drawn = DeepSpeedEngine(build_model(MODEL, CONFIG), CONFIG, Scale(workers=WORKERS)), list[Tensor]()
    backward = engine.backward

    def draw(*batch: Any) -> Losses:
        drawn.append(torch.rand(1, dtype=torch.float64))
        return backward(*batch)

    engine.backward = draw  # type: ignore[method-assign]
    train(engine, ROWS, CONFIG, lambda model, level: 0.0, lambda at, write: None)
    everyone = [torch.empty(len(drawn), dtype=torch.float64) for _ in range(WORKERS)]
    distributed.all_gather(everyone, torch.cat(drawn))
    assert len(torch.cat(everyone).unique()) == WORKERS * CONFIG.steps


def test_a_loss_that_is_not_finite_on_one_worker_stops_both(tmp_path: Path) -> None:
    run_workers(_diverge, tmp_path)


def _diverge(rank: int) -> None:
    """The second worker's loss of step 5 is not finite, and its gradient is."""
    engine, steps = DeepSpeedEngine(build_model(MODEL, CONFIG), CONFIG, Scale(workers=WORKERS)), iter(range(100))
    backward = engine.backward

    def spoil(*batch: Any) -> Losses:
        losses = backward(*batch)
        return Losses(losses.answers * (math.inf if next(steps) == 5 and rank == 1 else 1.0))

    engine.backward = spoil  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"step 5: loss inf, gradient norm \d"):
        train(engine, ROWS, CONFIG, lambda model, level: 0.0, lambda at, write: None)


def test_a_batch_that_zero_skips_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither in weights nor in the optimiser's state, on which the batch after it depends. The gradient is not finite
    on one worker, in the first of two micro-batches, and of one weight, Muon's or AdamW's."""
    run_workers(_skip, tmp_path)


def _skip(rank: int) -> None:
    for stage, optimizer, precision in PARTITIONED:
        scale = Scale(workers=WORKERS, zero_stage=stage, accumulation=2)
        config = replace(
            CONFIG, grad_clip=0.0, skips=1, optimizer=optimizer, precision=precision, batch_size=16, warmup_steps=0
        )
        expected = _weights(rank, config, scale, (0, 1, 3))
        for spoiled in ("norm.weight", "blocks.0.mlp.up.weight"):
            found = _weights(rank, config, scale, (0, 1, 2, 3), spoiled)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], weight) for name, weight in expected.items()), (scale, optimizer)


def _weights(
    rank: int, config: TrainConfig, scale: Scale, batches: tuple[int, ...], spoiled: str = ""
) -> dict[str, Tensor]:
    """The weights, on the first worker, after these batches, of which 2 is spoiled."""
    engine, spoils = DeepSpeedEngine(build_model(MODEL, config), config, scale), False
    if spoiled and rank == 1:
        engine.model.get_parameter(spoiled).register_hook(lambda gradient: gradient * (math.inf if spoils else 1.0))
    for batch in batches:
        for i, part in enumerate(split_batch(ROWS[16 * batch : 16 * (batch + 1)], rank, WORKERS, 2)):
            spoils = batch == 2 and i == 0
            engine.backward(*map(torch.from_numpy, part.batch()))
        assert bool(engine.step(0.5).isfinite()) == (batch != 2)
    weights = dict[str, Tensor]()
    engine.finish(lambda model: weights.update({name: w.clone() for name, w in model.state_dict().items()}))
    return weights
