"""Batches of rows of one bucket: which rows they have, what they compute, and how few shapes their plans have."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datagen import Rows
from datagen.blocks import Blocks
from datagen.canonical import identifying_fields
from sleepmodel import TrainConfig
from sleepmodel.batch_plan import BatchPlan, plan_batch
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Curriculum, Scale
from sleepmodel.model import SleepModel
from sleepmodel.training import buckets as buckets_module
from sleepmodel.training.batches import BatchSampler, CurriculumSampler, EpochOrder, Prefetcher, split_batch
from sleepmodel.training.buckets import buckets_of
from sleepmodel.training.cuda_graphs import GraphedModel, graphed
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import Save, build_model, train
from sleepmodel.training.plan_filling import filled
from sleepmodel.training.progress import Progress
from tests.sleepmodel.conftest import build_small, gradients

WINDOW, BUCKET = 6, 2
PAD_TOKEN = 5  # in rows
MODEL = ModelConfig(
    vocab_size=5, d_model=16, n_heads=2, mixers=("attention", "gated_delta"), window=WINDOW, fast_heads=1, key_dim=8,
    value_dim=8, sleep_passes=2,
)  # fmt: skip
CONFIG = TrainConfig(steps=12, batch_size=4, validate_every=4, bucket_tokens=BUCKET)
MODELS = {
    "prompts": MODEL,
    "all": replace(MODEL, sleep_on="all", eviction="sliding"),
}


def mixed_rows(seed: int, count: int, sleep_on: str = "prompts") -> Rows:
    """Rows of 3 to 20 tokens, some padded on the left, with one to three answers of one or two tokens, of two depths,
    and some with tokens behind the last of them."""
    make = np.random.default_rng(seed)
    tokens, starts, lengths, depths = (list[list[int]]() for _ in range(4))
    for row in range(count):
        pads, length = int(make.choice([0, 0, 1, 7])), int(make.integers(3, 13))
        places = range(pads + 1, pads + length - 1)
        allowed = [at for at in places if sleep_on == "all" or (at % WINDOW and (at + 1) % WINDOW)]
        found = sorted(make.choice(allowed, min(len(allowed), int(make.integers(1, 4))), replace=False).tolist())
        apart = [at for i, at in enumerate(found) if i == 0 or at > found[i - 1] + 1]
        tokens.append([PAD_TOKEN] * pads + make.integers(0, 5, length).tolist())
        starts.append(apart)
        lengths.append([int(make.integers(1, 3)) for _ in apart])
        depths.append([row % 2] * len(apart))
    return Rows.of(tokens, starts, lengths, depths, pad=PAD_TOKEN)


def cut(rows: Rows, sizes: list[int]) -> Blocks:
    """Rows as blocks of these sizes."""
    starts = np.cumsum([0, *sizes])
    return Blocks(tuple(sizes), lambda block: rows[starts[block] : starts[block + 1]])


def plan_of(rows: Rows, model: ModelConfig) -> BatchPlan:
    tokens, mask = map(torch.from_numpy, rows.batch())
    return plan_batch(tokens, mask, model, model.sleep_passes)


def numbers(rows: Rows) -> np.ndarray:
    """The numbers of rows of `numbered`."""
    return rows.answers()[2][:, 0]


def numbered(rows: Rows) -> Rows:
    """The rows, with their numbers as the depths of their answers."""
    count = rows.answer_start.lengths  # type: ignore[union-attr]
    depths = replace(rows.answer_depth, values=np.repeat(np.arange(len(rows)), count))  # type: ignore[type-var]
    return replace(rows, answer_depth=depths)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 3))
def test_an_epoch_has_the_rows_that_it_has_without_buckets(sizes: list[int], batch: int, seed: int) -> None:
    """Each at most once, in batches of one bucket but for those at borders of buckets and blocks; a start at any step
    reads what the whole training reads there."""
    if batch > sum(sizes):
        return
    config = replace(CONFIG, batch_size=batch, seed=seed)
    made = np.random.default_rng(seed)
    buckets = [made.integers(0, 3, size) for size in sizes]

    def batches(order: EpochOrder, steps: range) -> list[list[tuple[int, int]]]:
        return [[(block, int(row)) for block, rows in order.pieces(step) for row in rows] for step in steps]

    order, plain = EpochOrder(tuple(sizes), config, lambda block: buckets[block]), EpochOrder(tuple(sizes), config)
    assert order.per_epoch == plain.per_epoch
    for epoch in range(2):
        steps = range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch)
        found = batches(order, steps)
        assert all(len(rows) == batch for rows in found)
        assert sorted(chain(*found)) == sorted(chain(*batches(plain, steps)))
        of_several = [rows for rows in found if len({(block, buckets[block][row]) for block, row in rows}) > 1]
        assert len(of_several) <= 2 * len(sizes) + len(sizes) - 1
    start = order.per_epoch // 2
    later = range(start, 2 * order.per_epoch)
    again = EpochOrder(tuple(sizes), config, lambda block: buckets[block])
    assert batches(again, later) == batches(order, later)


def test_batches_come_in_no_order_of_length() -> None:
    """As buckets are sorted to be cut into batches; and every epoch cuts them in another way."""
    buckets = np.repeat(np.arange(8), 40)
    order = EpochOrder((320,), replace(CONFIG, batch_size=8), lambda block: buckets)
    first, second = ([order.pieces(epoch * 40 + step)[0][1] for step in range(40)] for epoch in (0, 1))
    of_batches = [int(buckets[rows[0]]) for rows in first]
    assert of_batches != sorted(of_batches) and sorted(of_batches) == np.repeat(np.arange(8), 5).tolist()
    assert {frozenset(rows) for rows in first}.isdisjoint({frozenset(rows) for rows in second})


@pytest.mark.parametrize("kind", MODELS)
def test_batches_of_a_bucket_have_one_shape(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the number of their answers. What would fill up a row changes its bucket, and nothing else does."""
    model, rows = MODELS[kind], mixed_rows(0, 600, kind)
    buckets = buckets_of(rows, model, BUCKET)
    monkeypatch.setattr(buckets_module, "ROWS_AT_ONCE", 7)
    assert np.array_equal(buckets_of(rows, model, BUCKET), buckets)
    seen = dict[Any, int]()
    make = np.random.default_rng(1)
    for bucket in np.unique(buckets):
        own = np.flatnonzero(buckets == bucket)
        for _ in range(6):
            plan = filled(plan_of(rows[make.choice(own, 4)], model), WINDOW, BUCKET)
            groups = [[group._replace(at=group.at if group.at is None else group.at[:0]) for group in each.groups]
                      for each in plan.windows]  # fmt: skip
            windows = tuple(each._replace(groups=tuple(own)) for each, own in zip(plan.windows, groups, strict=True))
            shape = BatchPlan(windows, plan.order[:0], plan.targets[:0], None).shape
            assert seen.setdefault(shape, int(bucket)) == bucket
    assert len(seen) == buckets.max() + 1 > 10


@pytest.mark.parametrize("kind", MODELS)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**16), batch=st.integers(1, 20), multiple=st.integers(1, 7))
@example(seed=1, batch=20, multiple=4)  # with answers that only fill up
def test_filling_up_a_batch_changes_no_loss_and_no_gradient(kind: str, seed: int, batch: int, multiple: int) -> None:
    """Of any batch, also of rows of several buckets."""
    eviction = MODELS[kind].eviction
    model = build_small(seed % 7, sleep_on=kind, eviction=eviction, sleep_passes=2, max_positions=None)
    tokens, mask = map(torch.from_numpy, mixed_rows(seed, batch, kind).batch())
    plan = model.plan(tokens, mask)
    more = filled(plan, WINDOW, multiple)
    assert int((more.targets >= 0).sum()) == len(plan.targets) <= len(more.targets) <= 1.125 * len(plan.targets)
    expected, got = model(tokens, mask, plan=plan), model(None, None, plan=more)
    torch.testing.assert_close(got.loss, expected.loss, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got.logits[: len(plan.targets)], expected.logits, rtol=1e-10, atol=1e-10)
    for a, b in zip(gradients(model, got.loss), gradients(model, expected.loss), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_sampled_batches_are_of_one_bucket_and_workers_share_them() -> None:
    rows = numbered(mixed_rows(2, 240))
    buckets = buckets_of(rows, MODEL, BUCKET)
    sampler = BatchSampler(Prefetcher(cut(rows, [100, 140])), CONFIG, partial(buckets_of, model=MODEL, tokens=BUCKET))
    read, alike = list[int](), 0
    for step in range(sampler.epochs.per_epoch):
        batch, _ = sampler.batch(step)
        parts = [numbers(part) for rank in (0, 1) for part in split_batch(batch, rank, workers=2, accumulation=1)]
        read += np.concatenate(parts).tolist()
        alike += len(set(buckets[numbers(batch)].tolist())) == 1
    assert sorted(read) == list(range(240))
    assert alike >= sampler.epochs.per_epoch - 2 * buckets.max() - 1


def test_a_level_is_drawn_in_buckets_and_each_of_its_rows_as_often() -> None:
    rows = mixed_rows(3, 60)
    config = replace(CONFIG, steps=2000, batch_size=4, curriculum=Curriculum(threshold=0.5))
    sampler = CurriculumSampler(Prefetcher(Blocks.of(rows)), config, None, buckets=lambda rows: rows.lengths // 6)
    levels, found, mixed = sampler.levels(0), np.zeros(60, int), 0
    for step in range(config.steps):
        batch = levels.batch(0, levels.stream(step, 0))
        assert len(set(batch.tolist())) == 4
        found[batch] += 1
        mixed += len(set((rows.lengths[batch] // 6).tolist())) > 1
    assert set(found[1::2]) == {0}
    # the 28 rows of 7 batches are others at each step; a row is in 267 of all batches, give or take 15
    assert mixed < config.steps / 2 and np.abs(found[::2] - config.steps * 4 / 30).max() < 5 * 15


def curve(rows: Rows, config: TrainConfig, resume: Path | None = None, save: Path | None = None) -> list[Progress]:
    engine = LocalEngine(build_model(MODEL, config), config)

    def keep(at: Progress, write: Save) -> None:
        if save is not None and at.step == 4:
            write(save)

    return train(engine, cut(rows, [50, 61]), config, lambda *_: 0.0, keep, resume)


@pytest.mark.parametrize("curriculum", [Curriculum(), Curriculum(threshold=0.0001, review=True)])
def test_a_training_in_buckets_goes_on_as_if_it_had_not_stopped(curriculum: Curriculum, tmp_path: Path) -> None:
    rows, config = mixed_rows(4, 111), replace(CONFIG, curriculum=curriculum)
    whole = curve(rows, config, save=tmp_path)
    losses = [at.loss for at in whole]
    assert [at.loss for at in curve(rows, config, resume=tmp_path)] == losses
    assert [at.loss for at in curve(rows, replace(config, bucket_tokens=None))] != losses


def test_most_batches_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows of two windows and of three. On a CPU, a graph is the function that it would be made of."""
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda function, *_, **__: function)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    make, model = np.random.default_rng(0), SleepModel(replace(MODEL, window=12))
    texts = [make.integers(0, 5, length).tolist() for length in make.choice([*range(14, 25), *range(26, 33)], 480)]
    rows = Rows.of(texts, [[len(text) - 1] for text in texts], [[1]] * 480, [[0]] * 480)

    def not_replayed(bucket_tokens: int | None) -> int:
        """Of 40 batches."""
        calls = list[BatchPlan]()

        def forward(*batch: Any, plan: BatchPlan) -> Any:
            calls.append(plan)
            return model(*batch, plan=plan)

        replaying = GraphedModel(model, forward, autocast=False, bucket_tokens=bucket_tokens)
        buckets = partial(buckets_of, model=model.config, tokens=bucket_tokens) if bucket_tokens else None
        sampler = BatchSampler(Prefetcher(Blocks.of(rows)), replace(CONFIG, batch_size=8), buckets)
        for step in range(40):
            tokens, mask = map(torch.from_numpy, sampler.batch(step)[0].batch())
            loss = replaying(tokens, mask, plan=model.plan(tokens, mask)).loss
            if step % 10 == 9:
                torch.testing.assert_close(loss, model(tokens, mask).loss)
        return len(calls)

    with torch.no_grad():
        assert not_replayed(None) > 30 and not_replayed(4) < 9  # in buckets, but not filled up: 10


@pytest.mark.parametrize("bucket_tokens", [None, BUCKET])
def test_the_graphs_of_a_training_are_of_filled_plans(
    bucket_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    on_gpu: Any = SimpleNamespace(embed=SimpleNamespace(weight=SimpleNamespace(device=torch.device("cuda"))))
    found = graphed(on_gpu, on_gpu, replace(CONFIG, bucket_tokens=bucket_tokens), Scale())
    assert isinstance(found, GraphedModel) and found.bucket_tokens == bucket_tokens


def test_traces_have_no_buckets_and_the_default_none() -> None:
    with pytest.raises(ValueError, match="bucket_tokens = 8: must be null with trace_weight > 0"):
        TrainConfig(bucket_tokens=8, trace_weight=0.5)
    with pytest.raises(ValueError, match="bucket_tokens = 0"):
        TrainConfig(bucket_tokens=0)
    assert "bucket_tokens" not in identifying_fields(TrainConfig())
    assert identifying_fields(CONFIG)["bucket_tokens"] == BUCKET
