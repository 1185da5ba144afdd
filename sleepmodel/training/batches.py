"""The rows of each training step, and their N: functions of (seed, step) and, under a curriculum, of the reports.

Each epoch shuffles the blocks of a dataset, and the rows within each block, so that at most two blocks are in memory,
whatever the number of rows. Every worker reads every block and takes its part of each batch.

With buckets, an epoch has the same rows. Those of a block that fill whole batches are shuffled, sorted by bucket and
cut into batches, which are shuffled in turn. A batch at the border of two blocks has rows of any bucket.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Self

import numpy as np
import numpy.typing as npt

from datagen.blocks import Blocks
from datagen.rows import Rows
from sleepmodel.config.training import TrainConfig
from sleepmodel.training.buckets import in_buckets
from sleepmodel.training.curriculum import RowsByLevel

Int64 = npt.NDArray[np.int64]
Buckets = Callable[[Rows], Int64]  # the bucket of each row


class BatchSampler:
    """The batch of each step. Raises ValueError if there are fewer rows than one batch.

    reader: of the training rows, which the caller closes. buckets: None: batches have rows of any length.
    """

    level: int | None = None  # of the validation rows; None: all rows

    def __init__(self, reader: Prefetcher, config: TrainConfig, buckets: Buckets | None = None) -> None:
        self.config, self.reader = config, reader
        self.buckets = None if buckets is None else lru_cache(maxsize=2)(lambda i: buckets(self.reader.read(i)))
        self.epochs = EpochOrder(reader.blocks.sizes, config, self.buckets)

    def batch(self, step: int) -> tuple[Rows, int | None]:
        """The rows of a step, for all workers together, and their N; None is the model's."""
        pieces = self.epochs.pieces(step)
        self.reader.keep([block for block, _ in pieces], self.epochs.following(step))
        return Rows.joined([self.reader.read(block)[rows] for block, rows in pieces]), drawn_passes(step, self.config)

    def validated(self, accuracy: float) -> None:
        """Called with the accuracy of each validation."""


class CurriculumSampler(BatchSampler):
    """Batches of one level each, drawn from the current block of the epoch, or from the first one where that has no
    rows of the level.

    opened: the level and the accuracy of the last report, from which a resumed run gets its open level; reads_first: of
    the model (see Curriculum.steps_per_pass).
    """

    def __init__(
        self,
        reader: Prefetcher,
        config: TrainConfig,
        opened: tuple[int, float] | None,
        reads_first: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        super().__init__(reader, config)
        self.reads_first = reads_first
        self.levels = lru_cache(maxsize=2)(lambda block: RowsByLevel(self.reader.read(block), config, buckets))
        # block 0, as the block that is read first depends on the seed and may be shorter
        self.schedule = self.levels(0).schedule(config.curriculum)
        self.level = self.schedule.after(*opened) if opened else self.schedule.first

    def batch(self, step: int) -> tuple[Rows, int | None]:
        (block, _), *_ = self.epochs.pieces(step)
        self.reader.keep([block], self.epochs.following(step))
        assert self.level is not None
        stream = self.levels(block).stream(step, self.level)
        level = self.schedule.drawn(self.level, stream)
        if level not in self.levels(block).rows:  # a short last block, as of train.rows: the first one has all levels
            block = 0
        rows = self.levels(block).batch(level, stream)
        passes = self.config.curriculum.passes(level, self.reads_first) or drawn_passes(step, self.config)
        return self.reader.read(block)[rows], passes

    def validated(self, accuracy: float) -> None:
        assert self.level is not None
        self.level = self.schedule.after(self.level, accuracy)


class EpochOrder:
    """Which rows of which blocks each step reads; an incomplete batch at the end of an epoch is dropped.

    buckets: of the rows of a block; None: batches have rows of any length.
    """

    def __init__(
        self, sizes: tuple[int, ...], config: TrainConfig, buckets: Callable[[int], Int64] | None = None
    ) -> None:
        self.sizes, self.config, self.buckets = sizes, config, buckets
        self.per_epoch = sum(sizes) // config.batch_size
        if self.per_epoch == 0:
            raise ValueError(f"batch_size = {config.batch_size}: must be at most the {sum(sizes)} training rows")
        self._order = lru_cache(maxsize=2)(self._blocks)
        self._within = lru_cache(maxsize=2)(self._rows)

    def pieces(self, step: int) -> list[tuple[int, Int64]]:
        """The block numbers and rows that make up a step's batch."""
        epoch, batch = divmod(step, self.per_epoch)
        first, last = batch * self.config.batch_size, (batch + 1) * self.config.batch_size
        pieces, start = [], 0
        for block in self._order(epoch):
            end = start + self.sizes[block]
            if first < end and start < last:
                pieces.append((block, self._within(epoch, block)[max(first - start, 0) : last - start]))
            start = end
        return pieces

    def following(self, step: int) -> int | None:
        """The block that is read after the last block of a step; None if the training ends before."""
        epoch, order = step // self.per_epoch, self._order(step // self.per_epoch)
        at = order.index(self.pieces(step)[-1][0]) + 1
        if at < len(order):
            return order[at]
        return self._order(epoch + 1)[0] if (epoch + 1) * self.per_epoch < self.config.steps else None

    def _blocks(self, epoch: int) -> list[int]:
        order: list[int] = self._stream(epoch, len(self.sizes)).permutation(len(self.sizes)).tolist()
        return order

    def _rows(self, epoch: int, block: int) -> Int64:
        stream, size = self._stream(epoch, block), self.config.batch_size
        rows = stream.permutation(self.sizes[block])
        if self.buckets is not None:
            order = self._order(epoch)
            before = sum(self.sizes[earlier] for earlier in order[: order.index(block)])
            whole = rows[-before % size :]  # behind those that complete the batch of the block before
            whole = whole[: len(whole) // size * size]
            whole[:] = in_buckets(whole, self.buckets(block), size, stream)
        return rows

    def _stream(self, epoch: int, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self.config.seed, epoch]).jumped(number))


class Prefetcher:
    """Reads blocks in a thread, before they are needed. It is a context manager, whose end ends the thread."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks, self.pool = blocks, ThreadPoolExecutor(max_workers=1)
        self.futures: dict[int, Future[Rows]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Waits for the block that is being read, and drops all."""
        self.pool.shutdown(cancel_futures=True)
        self.futures = {}

    def keep(self, wanted: list[int], following: int | None) -> None:
        """Drop all other blocks and read the wanted ones; if only one is wanted, also read the one that follows."""
        ahead = [following] if following is not None and len(set(wanted)) == 1 else []
        self.futures = {block: future for block, future in self.futures.items() if block in wanted + ahead}
        for block in wanted + ahead:
            self._start(block)

    def read(self, block: int) -> Rows:
        """Wait for a block and return its rows. Raises the exception of the read if it failed."""
        self._start(block)
        return self.futures[block].result()

    def _start(self, block: int) -> None:
        if block not in self.futures:
            self.futures[block] = self.pool.submit(self.blocks.read, block)


def drawn_passes(step: int, config: TrainConfig) -> int | None:
    """The N of a step's batch, a function of (seed, step); None is the model's."""
    if not config.sleep_passes:
        return None
    return int(np.random.Generator(np.random.PCG64([config.seed, step, 1])).choice(config.sleep_passes))


def split_batch(rows: Rows, rank: int, workers: int, accumulation: int) -> list[Rows]:
    """A worker's micro-batches of a global batch: contiguous pieces of equal size."""
    pieces = np.split(np.arange(len(rows)), workers * accumulation)
    return [rows[piece] for piece in pieces[rank * accumulation : (rank + 1) * accumulation]]
