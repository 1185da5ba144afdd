"""Training on traces: what is differentiated, how it is split, what it costs, and what is refused before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datagen import Rows
from datagen.rows import Ragged
from sleepmodel import Session, TrainConfig
from sleepmodel.accounting import training_flops
from sleepmodel.config.training import Curriculum, Truncation
from sleepmodel.evaluation.accuracy import accuracy, predict
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train
from sleepmodel.training.progress import Progress
from sleepmodel.training.traces import check_trainable
from tests.sleepmodel.tiny import ITERATED as MODEL
from tests.sleepmodel.tiny import TRACED as TASK
from tests.sleepmodel.tiny import TRACED_CONFIG as TOLD


@pytest.fixture(scope="module")
def rows() -> Rows:
    return TASK.sample("train", 0, 0, 96)


def curve(engine: LocalEngine, rows: Rows, config: TrainConfig, **more: Any) -> list[Progress]:
    return train(engine, rows, config, lambda model, level: 0.6, more.pop("report", lambda at, write: None), **more)


def shaken(config: TrainConfig, accumulation: int = 1) -> LocalEngine:
    """An engine in float64, whose model's projections do not begin at zero, so that every weight has a gradient."""
    engine = LocalEngine(build_model(MODEL, config).double(), config, accumulation)
    with torch.no_grad():
        for p in engine.model.parameters():
            p += 0.3 * torch.ones_like(p).cumsum(-1).sin()
    return engine


def gradient(engine: LocalEngine, rows: Rows, config: TrainConfig) -> list[torch.Tensor]:
    """The gradient of the first step of a training."""
    found: list[torch.Tensor] = []

    def keep(rate: float) -> torch.Tensor:
        found.extend(p.grad.clone() for p in engine.model.parameters() if p.grad is not None)
        return torch.zeros(())

    engine.step = keep  # type: ignore[method-assign]
    curve(engine, rows, config)
    assert found
    return found


PLAIN = replace(TOLD, steps=1, batch_size=8, grad_clip=0.0, curriculum=Curriculum())


def uneven(rows: Rows) -> Rows:
    """Eight rows of all depths, with labels taken out of some."""
    assert rows.traces is not None
    few = rows[np.argsort(rows.depths, kind="stable")[::12]]
    assert few.traces is not None and set(few.depths.tolist()) == {1, 2, 3}
    labels = few.traces.values.copy()
    labels[: len(labels) // 3 : 2] = -1
    return replace(few, traces=Ragged(labels, few.traces.offsets))


def test_the_loss_is_that_of_the_answers_and_a_share_of_that_of_the_traces(rows: Rows) -> None:
    eight = uneven(rows)
    got = gradient(shaken(PLAIN), eight, PLAIN)
    model = shaken(PLAIN).model
    tokens, mask = map(torch.from_numpy, eight.batch())
    out = model(tokens, mask, None, torch.from_numpy(eight.trace_batch()))  # type: ignore[arg-type]
    assert out.trace_loss is not None
    (out.loss + 0.5 * out.trace_loss).backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    for ours, plain in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
    without = gradient(shaken(replace(PLAIN, trace_weight=0.0)), eight, replace(PLAIN, trace_weight=0.0))
    assert not all(torch.allclose(a, b) for a, b in zip(got, without, strict=True))


def test_every_label_counts_the_same_in_whatever_micro_batch_and_worker(rows: Rows) -> None:
    """In one piece, in four, and over two workers of two pieces each, whose mean is taken."""
    eight = uneven(rows)
    whole, pieces = (gradient(shaken(PLAIN, n), eight, PLAIN) for n in (1, 4))
    workers = []
    for rank in (0, 1):
        engine = shaken(PLAIN, 2)
        engine.rank, engine.workers = rank, 2  # type: ignore[misc]
        workers.append(gradient(engine, eight, PLAIN))
    for one, four, first, second in zip(whole, pieces, *workers, strict=True):
        torch.testing.assert_close(one, four, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(one, (first + second) / 2, rtol=1e-9, atol=1e-12)


def test_a_resumed_run_is_the_same_run(rows: Rows, tmp_path: Path) -> None:
    def report(at: Progress, write: Any) -> None:
        if at.step == 8 and not (tmp_path / "checkpoint").exists():
            (tmp_path / "checkpoint").mkdir()
            write(tmp_path / "checkpoint")

    whole = curve(LocalEngine(build_model(MODEL, TOLD), TOLD), rows, TOLD, report=report)
    engine = LocalEngine(build_model(MODEL, TOLD), TOLD)
    rest = curve(engine, rows, TOLD, resume=tmp_path / "checkpoint")
    clock = {"seconds": 0.0, "tokens_per_second": 0.0}
    assert [replace(at, **clock) for at in rest] == [replace(at, **clock) for at in whole]  # type: ignore[arg-type]


def test_n_follows_the_depth_beyond_that_of_training_and_the_first_pass_only_reads(rows: Rows) -> None:
    """N = t + 1; a step with traces costs the whole last pass."""
    config = replace(TOLD, steps=30, curriculum=replace(TOLD.curriculum, threshold=None))
    engine = LocalEngine(build_model(MODEL, config), config)
    seen, backward = list[tuple[int, int | None, int]](), engine.backward

    def watch(*batch: Any) -> Any:
        assert batch[4] is not None
        seen.append((batch[4].labels.shape[1], batch[2], len(batch[0])))
        return backward(*batch)

    engine.backward = watch  # type: ignore[method-assign]
    history = curve(engine, rows, config)
    assert {t for t, _, _ in seen} == {1, 2, 3} and all(passes == t + 1 for t, passes, _ in seen)
    costs = [n * training_flops(engine.model, TASK.row_length, passes, None, t) for t, passes, n in seen]
    assert history[-1].flops == sum(costs)

    test = TASK.sample("test", 0, 0, 40)
    got = predict(engine.model, test, curriculum=config.curriculum)
    for depth, passes in {1: 2, 8: 9}.items():
        which = test.depths == depth
        assert np.array_equal(got.tokens[which], predict(engine.model, test[which], passes).tokens)
    assert accuracy(engine.model, test, curriculum=config.curriculum).answers.keys() == {1, 8}


def test_half_of_the_batches_are_at_the_front(rows: Rows) -> None:
    def drawn(front: float) -> np.ndarray:
        config = replace(TOLD, steps=100, validate_every=100, curriculum=replace(TOLD.curriculum, front=front))
        config = replace(config, curriculum=replace(config.curriculum, threshold=None))
        engine = LocalEngine(build_model(MODEL, config), config)
        seen: list[int] = []

        def note(*batch: Any) -> Any:
            seen.append(batch[2])
            return losses

        losses = engine.backward(*map(torch.from_numpy, rows[:1].batch()))
        engine.backward, engine.step = note, lambda rate: torch.zeros(())  # type: ignore[method-assign, assignment]
        curve(engine, rows, config)
        return np.bincount(seen, minlength=5)[2:]

    # three levels are open; five standard deviations of a share of 100 batches
    for front, share in ((0.0, 1 / 3), (0.5, 2 / 3), (1.0, 1.0)):
        assert abs(drawn(front)[2] / 100 - share) <= 5 * (share * (1 - share) / 100) ** 0.5


WRONG = replace(TOLD, curriculum=Curriculum())


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        (
            {"sleep_passes": 3},
            {},
            "traces of 3 passes in training rows of depth 3: must be at most 2, as N = 3, the first",
        ),
        (
            {"sleep_passes": 2, "reads_first": False},
            {},
            "depth 3: must be at most 2, as N = 2; set train.curriculum.steps_per_pass, or a larger N",
        ),
        ({}, {"sleep_passes": (4, 2)}, "must be at most 1, as N = 2"),
        ({}, {"curriculum": Curriculum(steps_per_pass=2)}, "depth 2: must be at most 1, as N = 2, .* take a smaller"),
        ({}, {"truncation": Truncation(passes=1)}, "truncation.passes = 1: must be null with trace_weight above 0"),
        ({"window": 14}, {}, "trace_weight = 0.5: must be 0, as no label of the training rows counts"),
    ],
)
def test_traces_that_cannot_be_trained_are_refused_before(
    rows: Rows, model: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    engine = LocalEngine(build_model(replace(MODEL, **model), replace(WRONG, **config)), replace(WRONG, **config))
    engine.backward = None  # type: ignore[assignment, method-assign]
    with pytest.raises(ValueError, match=message):
        curve(engine, rows, replace(WRONG, **config))


def test_a_trace_weight_needs_traces(rows: Rows) -> None:
    with pytest.raises(ValueError, match=r"trace_weight = 0.5: must be 0, as the training rows have no traces"):
        check_trainable(replace(rows, traces=None), MODEL, TOLD)
    check_trainable(replace(rows, traces=None), MODEL, replace(TOLD, trace_weight=0.0))
    check_trainable(rows, MODEL, TOLD)


def test_a_curve_without_traces_says_nothing_of_them(rows: Rows) -> None:
    config = replace(TOLD, trace_weight=0.0)
    (*_, last) = curve(LocalEngine(build_model(MODEL, config), config), rows, config)
    assert last.trace_loss is None and "traces" not in last.line()
    (*_, last) = curve(LocalEngine(build_model(MODEL, TOLD), TOLD), rows, TOLD)
    assert f"traces {last.trace_loss:.3f}" in last.line()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trace_weight": -1.0}, "trace_weight = -1.0: must be a number from 0"),
        ({"curriculum": {"front": 1.5, "review": True}}, "front = 1.5: must be a number from 0 to 1"),
        ({"curriculum": {"front": 0.5}}, "front = 0.5: must be 0 without review"),
    ],
)
def test_a_config_that_means_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{name: Curriculum(**value) if name == "curriculum" else value for name, value in fields.items()})


def test_a_session_with_a_pass_for_each_step_answers_as_it_is_evaluated() -> None:
    """Far beyond the depth of training and the model's own N, with which it would answer otherwise."""
    model, test = shaken(TOLD).model, TASK.sample("test", 0, 0, 24)
    tokens, mask = map(torch.from_numpy, test.batch())
    expected, own = (predict(model, test, curriculum=each).nats for each in (TOLD.curriculum, Curriculum()))
    for depth in (1, 8):
        which = test.depths == depth
        session = Session(model, int(which.sum()), sleep_passes=depth + 1)
        session.read(tokens[which, : MODEL.window])  # the window is full, so the session sleeps by itself
        logits = session.read(tokens[which, MODEL.window : -1])
        nats = F.cross_entropy(logits.flatten(0, 1), tokens[which, MODEL.window + 1 :].flatten(), reduction="none")
        asked = mask[which].numpy()
        assert nats.numpy() == pytest.approx(expected[which][asked], rel=1e-5)
        assert np.abs(own[which][asked] - expected[which][asked]).max() > 1e-3
