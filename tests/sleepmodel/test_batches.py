"""Which rows a step reads, from how many blocks, and by which worker."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Rows, Rule110
from datagen.blocks import Blocks
from sleepmodel import TrainConfig
from sleepmodel.config.training import Curriculum
from sleepmodel.training.batches import BatchSampler, CurriculumSampler, EpochOrder, Prefetcher, split_batch
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import Save, build_model, train
from sleepmodel.training.progress import Progress
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK
from tests.waiting import scaled

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def cut(rows: Rows, sizes: list[int]) -> Blocks:
    """Rows as blocks of these sizes."""
    starts = np.cumsum([0, *sizes])
    return Blocks(tuple(sizes), lambda block: rows[starts[block] : starts[block + 1]])


def order(sizes: list[int], config: TrainConfig, start: int = 0) -> list[list[tuple[int, int]]]:
    """Of each step, block and row of each of its rows."""
    epochs = EpochOrder(tuple(sizes), config)
    return [
        [(block, row) for block, rows in epochs.pieces(step) for row in rows.tolist()]
        for step in range(start, config.steps)
    ]


@given(SIZES, st.integers(1, 50), st.integers(0, 120), st.integers(0, 5))
def test_every_epoch_reads_every_row_at_most_once_and_a_start_skips_exactly(
    sizes: list[int], batch: int, start: int, seed: int
) -> None:
    config = TrainConfig(steps=120, batch_size=batch, seed=seed)
    if batch > sum(sizes):
        with pytest.raises(ValueError, match=f"batch_size = {batch}: must be at most the {sum(sizes)} training rows"):
            order(sizes, config)
        return
    every, per_epoch = order(sizes, config), sum(sizes) // batch
    assert all(len(step) == batch for step in every)
    there = {(block, row) for block, size in enumerate(sizes) for row in range(size)}
    for epoch in range(120 // per_epoch):
        seen = [place for step in every[epoch * per_epoch : (epoch + 1) * per_epoch] for place in step]
        assert len(set(seen)) == len(seen) and set(seen) <= there
    assert order(sizes, config, start) == every[start:]


def test_every_epoch_has_an_order_of_its_own() -> None:
    for sizes in ([64], [32, 32]):
        places = np.concatenate(order(sizes, TrainConfig(steps=16, batch_size=8)))
        first, second = places[:64].tolist(), places[64:].tolist()
        assert sorted(first) == sorted(second) and first != second
    alone = np.concatenate(order([64], TrainConfig(steps=8, batch_size=8, seed=3)))[:, 1]
    assert np.array_equal(alone, np.random.Generator(np.random.PCG64([3, 0])).permutation(64))


def test_blocks_are_read_once_an_epoch_ahead_of_their_need_and_two_at_most_are_kept() -> None:
    """While a block is read by the steps, the one behind it is on its way; a step at a border reads two."""
    rows, read, arrived = TASK.sample("train", 0, 0, 60), list[int](), threading.Semaphore(0)
    parts = cut(rows, [20] * 3)

    def noted(block: int) -> Rows:
        read.append(block)
        arrived.release()
        return parts.read(block)

    plan = BatchSampler(Prefetcher(Blocks(parts.sizes, noted)), TrainConfig(steps=15, batch_size=8))
    for step in range(15):
        batch, _ = plan.batch(step)
        expected = [parts.read(block)[which] for block, which in plan.epochs.pieces(step)]
        assert np.array_equal(batch.tokens, Rows.joined(expected).tokens)
        assert len(plan.reader.futures) <= 2
        if step == 0:
            assert all(arrived.acquire(timeout=scaled()) for _ in range(2))  # the first, and the second ahead
    visited = [block for step in order([20] * 3, plan.config) for block, _ in step]
    visits = [block for i, block in enumerate(visited) if i == 0 or block != visited[i - 1]]
    # what is in memory is not read again where the next epoch begins with it; behind the last visit one is read ahead
    assert read[:4] == visits[:4] and len(read) <= len(visits) + 1


def test_what_cannot_be_read_stops_the_training_with_its_error() -> None:
    blocks = Blocks((20, 20), lambda block: (_ for _ in ()).throw(ValueError("shard 7 is broken")))
    with pytest.raises(ValueError, match="shard 7 is broken"):
        BatchSampler(Prefetcher(blocks), TrainConfig(steps=2, batch_size=8)).batch(0)


def test_a_limit_on_the_rows_reads_the_first() -> None:
    rows = TASK.sample("train", 0, 0, 60)
    few = cut(rows, [20] * 3).first(33)
    assert few.sizes == (20, 13)
    assert np.array_equal(few.read(1).tokens, rows[20:33].tokens)
    assert cut(rows, [20] * 3).first(99).sizes == (20, 20, 20)


def test_workers_share_a_batch_without_loss() -> None:
    rows = TASK.sample("train", 0, 0, 12)
    parts = [part for rank in (0, 1) for part in split_batch(rows, rank, workers=2, accumulation=3)]
    assert len(parts) == 6 and np.array_equal(Rows.joined(parts).tokens, rows.tokens)


def curve(rows: Rows | Blocks, config: TrainConfig) -> list[Progress]:
    engine = LocalEngine(build_model(MODEL, config), config)
    return train(engine, rows, config, lambda model, level: 1.0, lambda at, write: None)


def test_a_training_from_one_block_is_that_from_memory() -> None:
    rows = TASK.sample("train", 0, 0, 40)
    apart, together, several = curve(cut(rows, [40]), CONFIG), curve(rows, CONFIG), curve(cut(rows, [24, 16]), CONFIG)
    assert [at.loss for at in apart] == [at.loss for at in together] != [at.loss for at in several]
    assert [(at.tokens, at.flops) for at in several] == [(at.tokens, at.flops) for at in together]


def test_a_climb_goes_through_the_blocks() -> None:
    """Rows of the open level alone, drawn from the block that the epoch has come to."""
    task = Rule110(cells=6, states=1, steps=4, shallowest=3)
    model = replace(MODEL, vocab_size=len(task.vocabulary), window=task.context_length, max_positions=task.row_length)
    config = replace(CONFIG, steps=20, curriculum=Curriculum(threshold=0.5))
    rows, seen = task.sample("train", 0, 0, 120), set[int]()
    parts = cut(rows, [60, 60])

    def noted(block: int) -> Rows:
        seen.add(block)
        return parts.read(block)

    engine = LocalEngine(build_model(model, config), config)
    history = train(engine, Blocks(parts.sizes, noted), config, lambda *_: 1.0, lambda at, write: None)
    assert [at.level for at in history] == [3, 4, 4, 4, 4] and seen == {0, 1}


@pytest.mark.parametrize("seed", range(6))
def test_a_curriculum_goes_through_blocks_that_lack_rows_of_a_level(seed: int) -> None:
    """The last block has less than a batch of each level; levels open as in one block, and no other block is read."""
    task = Rule110(cells=6, states=1, steps=5, shallowest=3)
    rows, sizes, read = task.sample("train", 0, 0, 1040), [500, 500, 40], list[int]()
    blocks = cut(rows, sizes)
    noted = Blocks(blocks.sizes, lambda block: (read.append(block), blocks.read(block))[1])
    config = replace(CONFIG, seed=seed, steps=30, batch_size=64, curriculum=Curriculum(threshold=0.5, review=True))
    climb, levels = CurriculumSampler(Prefetcher(noted), config, None), []
    for step in range(config.steps):
        batch, _ = climb.batch(step)
        assert len(batch) == 64 and len(set(batch.depths.tolist())) == 1
        climb.validated(0.9 if step % 10 == 9 else 0.1)
        levels.append(climb.level)
    assert levels[8] == 3 and levels[9] == 4 and levels[19] == 5
    epochs = config.steps / climb.epochs.per_epoch
    assert len(read) <= 1 + len(sizes) * (epochs + 1)


def test_a_last_block_without_rows_of_a_level_takes_them_from_the_first() -> None:
    """As `train.rows` can leave one: two rows have at most two of three levels."""
    task = Rule110(cells=6, states=1, steps=5, shallowest=3)
    blocks = cut(task.sample("train", 0, 0, 400), [200, 200]).first(202)
    for seed, threshold in product(range(6), (None, 0.5)):
        curriculum = Curriculum(threshold=threshold, steps_per_pass=2, review=threshold is not None)
        config = replace(CONFIG, seed=seed, steps=30, batch_size=32, curriculum=curriculum)
        with Prefetcher(blocks) as reader:
            sampler, levels = CurriculumSampler(reader, config, None), set[int]()
            for step in range(config.steps):
                batch, _ = sampler.batch(step)
                (level,) = set(batch.depths.tolist())
                levels.add(level)
                assert len(batch) == 32
                sampler.validated(1.0)
        assert levels == {3, 4, 5}


def test_the_thread_that_reads_ends_with_the_training() -> None:
    """Also with an error, before the first step and in the middle."""
    rows, threads = TASK.sample("train", 0, 0, 40), set[threading.Thread]()

    def noted(block: int) -> Rows:
        threads.add(threading.current_thread())
        return rows[20 * block : 20 * block + 20]

    def attempt(config: TrainConfig, report: Callable[[Progress, Save], None]) -> list[Progress]:
        engine = LocalEngine(build_model(MODEL, config), config)
        found = train(engine, Blocks((20, 20), noted), config, lambda *_: 1.0, report)
        return found

    def failing(at: Progress, write: Save) -> None:
        raise RuntimeError("the disk is full")

    gc.disable()  # it would end the thread, some day
    try:
        attempt(CONFIG, lambda at, write: None)
        with pytest.raises(RuntimeError, match="the disk is full"):
            attempt(CONFIG, failing)
        with pytest.raises(ValueError, match="level 1 has 20 rows in the first block"):
            attempt(replace(CONFIG, batch_size=40, curriculum=Curriculum(threshold=0.5)), failing)
        assert len(threads) == 3 and not any(thread.is_alive() for thread in threads)
    finally:
        gc.enable()
