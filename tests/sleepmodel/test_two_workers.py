"""Two workers under DeepSpeed, without Ray: what one of them alone sees is decided by both, at the same step."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from sleepmodel import Scale, TrainConfig
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.training.batches import split_batch
from sleepmodel.training.engine import Losses
from sleepmodel.training.loop import NonFiniteError, build_model, train
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

pytestmark = pytest.mark.slow

WORKERS = 2
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
