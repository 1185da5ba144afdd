"""Levels open when they should, batches hold what they should, and N follows the level."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datagen import Depo, Rows, Rule110, generate, read_rows
from sleepmodel import SleepModel, TrainConfig
from sleepmodel.accounting import flops
from sleepmodel.config.training import Curriculum
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.evaluation.accuracy import accuracy, predict
from sleepmodel.training.curriculum import levels_of
from sleepmodel.training.engine import LocalEngine, Losses, WeightedTraces
from sleepmodel.training.loop import build_model, train
from sleepmodel.training.progress import Progress
from tests.sleepmodel.conftest import build_small
from tests.sleepmodel.tiny import CONFIG, MODEL

TASK = Rule110(cells=6, states=1, steps=5, shallowest=3)
TOLD = replace(MODEL, vocab_size=len(TASK.vocabulary), window=TASK.context_length, max_positions=TASK.row_length)
CLIMB = replace(CONFIG, steps=20, curriculum=Curriculum(threshold=0.5))
PASSES = Curriculum(steps_per_pass=2)


@pytest.fixture(scope="module")
def rows() -> Rows:
    return TASK.sample("train", 0, 0, 200)


class Watched(LocalEngine):
    """Notes the steps, as the rows tell them, and the N of every batch."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(build_model(TOLD, config), config)
        self.seen: list[tuple[set[int], int | None]] = []

    def backward(
        self,
        tokens: torch.Tensor,
        loss_mask: torch.Tensor,
        sleep_passes: int | None = None,
        weight: float = 1.0,
        traces: WeightedTraces | None = None,
    ) -> Losses:
        told = {TASK.vocabulary[token] for token in tokens[:, 0].tolist()}
        self.seen.append(({int(name.removeprefix("t")) for name in told}, sleep_passes))
        return super().backward(tokens, loss_mask, sleep_passes, weight, traces)


def run(
    rows: Rows, config: TrainConfig, given: Iterator[float], resume: Path | None = None, save: Path | None = None
) -> tuple[list[Progress], Watched, list[int | None]]:
    engine, asked = Watched(config), []

    def validate(model: SleepModel, level: int | None) -> float:
        asked.append(level)
        return next(given)

    def report(at: Progress, write: object) -> None:
        if save and at.step == 12:
            save.mkdir()
            write(save)  # type: ignore[operator]

    return train(engine, rows, config, validate, report, resume), engine, asked


def test_a_level_opens_when_the_one_before_is_learned(rows: Rows) -> None:
    """Looks after 4, 8, ... steps; the share of right rows reaches the threshold at the second, fourth and fifth."""
    history, engine, asked = run(rows, CLIMB, iter([0.49, 0.5, 0.1, 0.9, 1.0]))
    assert asked == [at.level for at in history] == [3, 3, 4, 4, 5]
    assert [levels for levels, _ in engine.seen] == [{3}] * 8 + [{4}] * 8 + [{5}] * 4


def test_open_levels_are_reviewed(rows: Rows) -> None:
    config = replace(CLIMB, steps=60, curriculum=Curriculum(threshold=0.5, review=True))
    _, engine, _ = run(rows, config, iter([1.0] + [0.0] * 14))
    drawn = [levels for levels, _ in engine.seen]
    assert drawn[:4] == [{3}] * 4
    assert all(len(levels) == 1 for levels in drawn) and {min(levels) for levels in drawn[4:]} == {3, 4}


def test_a_resumed_climb_is_the_same_climb(rows: Rows, tmp_path: Path) -> None:
    shares = [0.6, 0.1, 0.7, 0.2, 0.3]
    whole, engine, _ = run(rows, CLIMB, iter(shares), save=tmp_path / "checkpoint")
    rest, resumed, asked = run(rows, CLIMB, iter(shares[3:]), resume=tmp_path / "checkpoint")
    assert asked == [5, 5]
    assert [(at.loss, at.level, at.flops) for at in rest] == [(at.loss, at.level, at.flops) for at in whole]
    for a, b in zip(engine.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_n_passes_stand_for_n_times_r_steps(rows: Rows) -> None:
    """With r = 2 a row of 3 or 4 steps is read with two passes, one of 5 with three: in training and evaluation."""
    config = replace(CONFIG, steps=40, curriculum=PASSES)
    history, engine, _ = run(rows, config, iter([0.0] * 10))
    wanted = {3: 2, 4: 2, 5: 3}
    assert all(passes == wanted[min(levels)] for levels, passes in engine.seen)
    assert {min(levels) for levels, _ in engine.seen} == {3, 4, 5}
    model, length = engine.model, rows.tokens.shape[1]
    cost = {level: 3 * CONFIG.batch_size * flops(model, length, passes) for level, passes in wanted.items()}
    assert history[-1].flops == sum(cost[min(levels)] for levels, _ in engine.seen)
    got = predict(model, rows, curriculum=PASSES)
    for level, passes in wanted.items():
        which = rows.depths == level
        alone = predict(model, rows[which], passes)
        assert np.array_equal(got.tokens[which], alone.tokens)
        assert np.allclose(got.nats[which], alone.nats, rtol=1e-5)
    assert accuracy(model, rows, curriculum=PASSES).answers.keys() == wanted.keys()


@pytest.mark.slow
def test_levels_gather_depths(ray_cluster: str, tmp_path: Path) -> None:
    """Depo trains on every k and is validated on powers of two alone; without levels it is refused at once."""
    depo = Depo(nodes=5, hops=4, queries=2)
    gathered, none = Curriculum(levels=(1, 2, 4), threshold=0.5), Curriculum(threshold=0.5)
    sample = depo.sample("train", 0, 0, 300)
    assert set(sample.depths.tolist()) == {1, 2, 3, 4}
    deepest = [max(answers) for answers in sample.answer_depth.tolist()]
    assert levels_of(sample, gathered).tolist() == [{1: 1, 2: 2, 3: 4, 4: 4}[depth] for depth in deepest]
    for split in ("train", "validation"):
        dataset = generate(depo, split, 300, 0, tmp_path)
    job = TrainingJob("depo", MODEL, replace(CONFIG, curriculum=gathered), str(dataset), "")
    engine = LocalEngine(build_model(MODEL, CONFIG), CONFIG)
    job.validate(engine)
    with pytest.raises(ValueError, match=r"curriculum.levels = \(\): .* \[3\] have none among 300"):
        replace(job, train=replace(CONFIG, curriculum=none)).validate(engine)
    with pytest.raises(ValueError, match=r"levels = \(1, 2\): must be up to the depth of every row; one has 3"):
        levels_of(sample, Curriculum(levels=(1, 2), threshold=0.5))


@pytest.mark.slow
def test_validation_is_of_one_level_with_its_own_n(ray_cluster: str, tmp_path: Path) -> None:
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 200, 0, tmp_path)
    job, held_out = (
        TrainingJob("climb", TOLD, replace(CONFIG, curriculum=PASSES), str(dataset), ""),
        read_rows(dataset, "validation"),
    )
    model = build_small(dtype=torch.float32, **asdict(TOLD))
    validate = job.validate(LocalEngine(model, job.train))
    for level, passes in {3: 2, 5: 3}.items():
        part = held_out[held_out.depths == level]
        expected = accuracy(model, part, passes).rows.value
        assert validate(model, level) == expected != accuracy(model, held_out, passes).rows.value


def test_a_level_with_too_few_rows_is_named(rows: Rows) -> None:
    few = rows[np.concatenate([np.flatnonzero(rows.depths == 3), np.flatnonzero(rows.depths == 4)[:7]])]
    limit = "level 4 has 7 rows in the first block of training rows: must be at least batch_size = 8"
    with pytest.raises(ValueError, match=limit):
        run(few, CLIMB, iter([]))


def test_n_cannot_be_set_twice() -> None:
    with pytest.raises(ValueError, match=r"sleep_passes = \(1, 2\): must be empty where curriculum.steps_per_pass"):
        TrainConfig(sleep_passes=(1, 2), curriculum=PASSES)
    with pytest.raises(ValueError, match="threshold = 2"):
        Curriculum(threshold=2.0)
    with pytest.raises(ValueError, match=r"levels = \(2, 1\): must be ascending"):
        Curriculum(levels=(2, 1))
