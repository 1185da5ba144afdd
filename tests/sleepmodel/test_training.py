"""The plain loop: what it optimises, in which order, and how it stops and goes on."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datagen import Rows, Rule110
from sleepmodel import SleepModel, TrainConfig
from sleepmodel.accounting import flops, training_flops
from sleepmodel.config.training import Scale, Truncation
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.model import Output
from sleepmodel.training.batches import drawn_passes
from sleepmodel.training.engine import LocalEngine, Losses
from sleepmodel.training.loop import NonFiniteError, Save, build_model, train
from sleepmodel.training.optim import freeze, schedule, split_parameters
from sleepmodel.training.progress import Progress
from tests.sleepmodel.tiny import CONFIG, INSERTED, MODEL, TASK
from tests.sleepmodel.updates import GIVEN_BATCH, check_first_update, with_given_gradients


@pytest.fixture(scope="module")
def rows() -> Rows:
    return TASK.sample("train", 0, 0, 64)


def curve(
    rows: Rows,
    config: TrainConfig = CONFIG,
    save: Path | None = None,
    resume: Path | None = None,
    accumulation: int = 1,
) -> tuple[list[Progress], SleepModel]:
    """A run; `save` keeps the checkpoint of its second report."""

    def report(at: Progress, write: Callable[[Path], None]) -> None:
        if save and at.step == 8:
            save.mkdir()
            write(save)

    engine = LocalEngine(build_model(MODEL, config), config, accumulation)
    history = train(engine, rows, config, lambda model, level: accuracy(model, rows).rows.value, report, resume)
    return history, engine.model


def without_clock(history: list[Progress]) -> list[Progress]:
    return [replace(at, seconds=0.0, tokens_per_second=0.0) for at in history]


def test_every_parameter_has_one_optimizer() -> None:
    model = build_model(replace(MODEL, conv=4), CONFIG)
    muon, adam = split_parameters(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(map(id, muon + adam)) == sorted(names)
    assert {names[id(p)] for p in muon} == {
        n for n in names.values() if n.startswith("blocks") and not any(w in n for w in ("norm", "bias", "conv"))
    }
    engine = LocalEngine(model, CONFIG)
    held = [p for group in engine.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(names)


def test_muon_orthogonalises_and_adam_does_not() -> None:
    model, gradients = with_given_gradients(replace(MODEL, conv=4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = LocalEngine(model, replace(CONFIG, grad_clip=0.0))
    engine.backward(*GIVEN_BATCH)
    engine.step(rate=0.5)
    check_first_update(model, before, gradients, engine.config, rate=0.5)


def test_no_steps_leave_the_model_as_it_began(rows: Rows) -> None:
    config = replace(CONFIG, steps=0)
    (only,), model = curve(rows, config)
    begun = build_model(MODEL, config)
    assert all(torch.equal(value, begun.state_dict()[name]) for name, value in model.state_dict().items())
    assert only.accuracy == accuracy(begun, rows).rows.value and (only.step, only.tokens, only.flops) == (0, 0, 0)
    assert "step 0/0" in only.line()


def test_the_same_seed_gives_the_same_run_and_another_seed_another(rows: Rows) -> None:
    first, model = curve(rows)
    second, again = curve(rows)
    assert without_clock(first) == without_clock(second)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert without_clock(curve(rows, replace(CONFIG, seed=1))[0]) != without_clock(first)


def test_it_learns() -> None:
    rows = Rule110(cells=6, states=1, steps=0).sample("train", 0, 0, 48)
    history, _ = curve(rows, replace(CONFIG, steps=120, validate_every=60))
    assert history[-1].accuracy > 0.9 and history[-1].loss < history[0].loss


def test_a_resumed_run_is_the_same_run(rows: Rows, tmp_path: Path) -> None:
    whole, model = curve(rows, save=tmp_path / "checkpoint")
    rest, resumed = curve(rows, resume=tmp_path / "checkpoint")
    assert without_clock(rest) == without_clock(whole)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_a_run_that_was_saved_between_two_reports_is_the_same_run(rows: Rows, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(step: int, save: Save) -> None:
        if step == 6:
            save(tmp_path)
            raise Enough

    engine = LocalEngine(build_model(MODEL, CONFIG), CONFIG)
    with pytest.raises(Enough):
        train(engine, rows, CONFIG, lambda model, level: 0.0, lambda at, write: None, between=stop)
    whole, model = curve(rows)
    rest, resumed = curve(rows, resume=tmp_path)
    assert without_clock(rest) == without_clock(whole)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_accumulation_changes_only_the_order_of_sums(rows: Rows) -> None:
    whole, pieces = curve(rows)[0], curve(rows, accumulation=4)[0]
    for a, b in zip(whole, pieces, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-3)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=2e-2)


def test_every_answer_token_counts_the_same_in_whatever_micro_batch() -> None:
    """Rows with 1 to 3 answer tokens, in one piece and in four: the same gradient, in float64."""
    make, answers = np.random.default_rng(), [1, 3, 2, 1, 3, 3, 1, 2]
    tokens = [make.integers(0, 3, 2 + length).tolist() for length in answers]
    rows = Rows.of(tokens, [[2]] * 8, [[length] for length in answers], [[0]] * 8)
    found: list[list[torch.Tensor]] = []
    config = replace(CONFIG, steps=1, batch_size=8, grad_clip=0.0)
    for accumulation in (1, 4):
        engine = LocalEngine(build_model(MODEL, config).double(), config, accumulation)

        def keep(rate: float, engine: LocalEngine = engine) -> Tensor:
            found.append([p.grad.clone() for p in engine.model.parameters() if p.grad is not None])
            return torch.zeros(())

        engine.step = keep  # type: ignore[method-assign]
        with torch.no_grad():
            for p in engine.model.parameters():
                p += 0.3 * torch.ones_like(p).cumsum(-1).sin()
        train(engine, rows, config, lambda model, level: 0.0, lambda at, write: None)
    assert found[0]
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(whole, pieces, rtol=1e-9, atol=1e-12)


def test_a_loss_that_is_not_finite_stops_before_it_is_applied(rows: Rows, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=9)
    engine = LocalEngine(build_model(MODEL, config), config)
    backward, calls = engine.backward, iter(range(100))

    def poisoned(*batch: Any) -> Losses:
        if next(calls) == 5:
            with torch.no_grad():
                engine.model.norm.weight[0] = float("nan")
        return backward(*batch)

    engine.backward = poisoned  # type: ignore[method-assign]
    kept: list[int] = []
    with pytest.raises(NonFiniteError, match=r"step 5: loss nan, gradient norm nan, muon_lr"):
        train(engine, rows, config, lambda model, level: 0.0, lambda at, write: kept.append(at.step))
    assert kept == [4]
    assert all(p.isfinite().all() for name, p in engine.model.named_parameters() if name != "norm.weight")


def test_an_engine_cuts_the_backward_of_a_model_that_was_loaded(rows: Rows) -> None:
    """It has no truncation of its own, unlike one of `build_model`."""
    config = replace(CONFIG, truncation=Truncation(passes=1))
    built, loaded = build_model(MODEL, config), SleepModel(MODEL)
    with torch.no_grad():
        for weight in built.parameters():  # output projections begin at zero, and a cut then changes nothing
            weight.add_(torch.randn_like(weight), alpha=0.1)
    loaded.load_state_dict(built.state_dict())
    tokens, mask = map(torch.from_numpy, rows.batch(slice(8)))
    for model in (built, loaded):
        LocalEngine(model, config).backward(tokens, mask)
    for (name, one), other in zip(built.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name  # type: ignore[arg-type]


def test_an_accuracy_of_numpy_does_not_spoil_the_checkpoints(rows: Rows, tmp_path: Path) -> None:
    def save(at: Progress, write: Save) -> None:
        write(tmp_path / f"step-{at.step}")

    for step in (None, 4):
        engine = LocalEngine(build_model(MODEL, CONFIG), CONFIG)
        resume = None if step is None else tmp_path / f"step-{step}"
        for directory in (tmp_path / f"step-{done}" for done in (4, 8, 12)):
            directory.mkdir(exist_ok=True)
        train(engine, rows, CONFIG, lambda model, level: np.float64(0.5), save, resume=resume)


def test_a_loss_that_is_not_finite_on_another_worker_stops_this_one(rows: Rows) -> None:
    """At the same step. tests/sleepmodel/test_two_workers.py has both."""
    engine, steps = LocalEngine(build_model(MODEL, CONFIG), CONFIG), iter(range(100))
    engine.sum = lambda values: values + (math.nan if next(steps) == 5 else 0.0)  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match="step 5: loss nan"):
        train(engine, rows, CONFIG, lambda model, level: 0.0, lambda at, write: None)


def skipping(
    rows: Rows, config: TrainConfig, at: tuple[int, ...], save: Path | None = None, resume: Path | None = None
) -> tuple[list[Progress], LocalEngine, list[float]]:
    """A run in which the gradients of the steps `at` are not finite, and the rates of all steps."""
    engine, rates = LocalEngine(build_model(MODEL, config), config), list[float]()
    backward, step, done = engine.backward, engine.step, iter(range(8 if resume else 0, 100))

    def poisoned(*batch: Any) -> Losses:
        loss = backward(*batch)
        if next(done) in at:
            engine.model.norm.weight.grad.fill_(float("inf"))  # type: ignore[union-attr]
        return loss

    def noted(rate: float) -> Tensor:
        rates.append(rate)
        before = [p.detach().clone() for p in engine.model.parameters()]
        norm = step(rate)
        moved = any(not torch.equal(a, b) for a, b in zip(before, engine.model.parameters(), strict=True))
        assert moved == (norm < float("inf"))
        return norm

    def report(at: Progress, write: Callable[[Path], None]) -> None:
        if save and at.step == 8:
            save.mkdir()
            write(save)

    engine.backward, engine.step = poisoned, noted  # type: ignore[method-assign]
    return train(engine, rows, config, lambda *_: 0.0, report, resume), engine, rates


def test_batches_without_a_finite_gradient_are_passed_over_at_lower_rates(rows: Rows, tmp_path: Path) -> None:
    config = replace(CONFIG, skips=3, backoff=0.5)
    whole, engine, rates = skipping(rows, config, at=(2, 5, 6), save=tmp_path / "checkpoint")
    assert [at.skipped for at in whole] == [1, 3, 3]
    plain = [schedule(step, config) for step in range(12)]
    assert rates == [rate * 0.5 ** (0 if i < 3 else 1 if i < 6 else 2 if i < 7 else 3) for i, rate in enumerate(plain)]
    assert all(np.isfinite([at.loss, at.grad_norm]).all() for at in whole)
    assert "3 batches skipped" in whole[-1].line() and "skipped" not in curve(rows)[0][-1].line()
    rest, resumed, _ = skipping(rows, config, at=(), resume=tmp_path / "checkpoint")
    assert without_clock(rest) == without_clock(whole)
    assert all(torch.equal(a, b) for a, b in zip(engine.model.parameters(), resumed.model.parameters(), strict=True))


def test_a_report_without_a_finite_batch_has_no_loss(rows: Rows) -> None:
    history, _, _ = skipping(rows, replace(CONFIG, skips=4), at=(4, 5, 6, 7))
    assert np.isnan(history[1].loss) and np.isnan(history[1].grad_norm) and np.isfinite(history[2].loss)


def test_one_batch_more_than_may_be_skipped_stops_the_run(rows: Rows) -> None:
    with pytest.raises(NonFiniteError, match=r"step 6: .*gradient norm inf, muon_lr 1.25e-03.* after 2 of skips = 2"):
        skipping(rows, replace(CONFIG, skips=2), at=(2, 5, 6))


def test_the_schedule_warms_holds_and_cools() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, decay_fraction=0.2)
    factors = [schedule(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9:81] == [1.0] * 72
    assert factors[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)])


def test_n_is_drawn_for_each_batch_by_seed_and_step(rows: Rows) -> None:
    config = replace(CONFIG, sleep_passes=(1, 2, 4), steps=60, validate_every=60)
    drawn = [drawn_passes(step, config) for step in range(3000)]
    # five standard deviations of a third of 3,000
    assert all(abs(drawn.count(passes) - 1000) < 130 for passes in (1, 2, 4))
    assert drawn != [drawn_passes(step, replace(config, seed=1)) for step in range(3000)]
    assert drawn_passes(5, CONFIG) is None
    engine, seen = LocalEngine(build_model(MODEL, config), config), []
    forward = engine.model.forward

    def noted(tokens: Tensor, mask: Tensor, passes: int | None, *rest: Any, **plan: Any) -> Output:
        seen.append(passes)
        return forward(tokens, mask, passes, *rest, **plan)

    engine.model.forward = noted  # type: ignore[method-assign]
    train(engine, rows, config, lambda model, level: 0.0, lambda at, write: None)
    assert seen == drawn[:60]


def test_truncation_reaches_the_model() -> None:
    config = replace(CONFIG, truncation=Truncation(passes=1, windows=2))
    assert build_model(MODEL, config).truncation == Truncation(passes=1, windows=2)


def test_only_the_first_rows_are_read_where_it_says_so(rows: Rows) -> None:
    some, few = curve(rows, replace(CONFIG, rows=16))[0], curve(rows[:16], CONFIG)[0]
    assert [at.loss for at in some] == [at.loss for at in few] != [at.loss for at in curve(rows)[0]]
    with pytest.raises(ValueError, match="rows = 4: must be an integer of at least 8"):
        replace(CONFIG, rows=4)


def test_inserted_blocks_are_trained_alone(rows: Rows) -> None:
    """The others have neither a gradient nor an optimiser's state, and cost less."""
    config = replace(CONFIG, trained="inserted", weight_decay=0.1)
    engine = LocalEngine(build_model(replace(INSERTED, reads_first=True, pass_embed=True), config), config)
    start = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
    history = train(engine, rows, config, lambda model, level: 0.0, lambda at, write: None)
    moved = {name for name, p in engine.model.named_parameters() if not torch.equal(p, start[name])}
    new = {name for name in start if name.startswith(("blocks.1.", "blocks.2.", "pass_embed"))}
    assert moved == {name for name, p in engine.model.named_parameters() if p.requires_grad} == new
    held = [p for group in engine.optimizer.param_groups for p in group["params"]]
    assert len(held) == len(new)
    whole = LocalEngine(build_model(INSERTED, CONFIG), CONFIG)
    spent = train(whole, rows, CONFIG, lambda model, level: 0.0, lambda at, write: None)[-1].flops
    assert spent / 2 < history[-1].flops < 0.9 * spent
    with pytest.raises(ValueError, match="trained = 'inserted': must be all for a model without inserted blocks"):
        LocalEngine(build_model(MODEL, config), config)


def test_training_flops_are_three_forwards_less_what_rests() -> None:
    model = build_model(INSERTED, CONFIG)
    assert training_flops(model, 20, 3) == 3 * flops(model, 20, 3)
    freeze(model, "inserted")
    window, tail = model.config.window, 20 - 3 * model.config.window
    first, new, other, last = (block.flops for block in model.stack)

    def one_pass(tokens: int, before: int) -> int:
        return before * first(tokens, 0) + 3 * (new(tokens, 0) + other(tokens, 0)) + 2 * last(tokens, 0)

    written = 3 * model.stack[2].mixer.write_flops(window)  # the last pass ends with the last state that is kept
    ended = 2 * first(window, 0) + 3 * new(window, 0) + written
    sleep = one_pass(window, 1) + one_pass(window, 2) + ended
    assert training_flops(model, 20, 3) == 3 * sleep + one_pass(tail, 1)


def documents(lengths: list[int], pads: list[int], pad: int) -> Rows:
    """Rows of random tokens after left pads, each token but the first an answer."""
    make = np.random.default_rng(0)
    tokens = [[pad] * left + make.integers(0, pad, n).tolist() for n, left in zip(lengths, pads, strict=True)]
    answers = [(left + 1, n - 1) for n, left in zip(lengths, pads, strict=True)]
    starts, sizes = ([[each[i]] * (each[1] > 0) for each in answers] for i in range(2))
    return Rows.of(tokens, starts, sizes, [[1] * len(each) for each in starts], pad)


def test_the_flops_of_a_run_are_those_of_the_windows_that_it_computes() -> None:
    """Documents of many lengths, one token among them, some with pads on the left: no row costs the windows of its
    pads, and one without answers costs nothing."""
    L, lengths = MODEL.window, [1, MODEL.window, MODEL.window + 1, 3 * MODEL.window, 2 * MODEL.window + 3, 5, 4, 3]
    pads = [0, 0, 0, 0, L, 2 * L, 2, L + 1]
    config = replace(CONFIG, steps=1, batch_size=8, validate_every=1, sleep_passes=(3,))
    model = replace(MODEL, sleep_on="all", max_positions=None, vocab_size=MODEL.vocab_size + 1)
    engine = LocalEngine(build_model(model, config), config)
    rows = documents(lengths, pads, MODEL.vocab_size)
    spent = train(engine, rows, config, lambda model, level: 0.0, lambda at, write: None)[-1].flops
    expected = 0
    for n, left in zip(lengths, pads, strict=True):
        # answers are predicted in every window but one that holds only the row's last token
        predicted = -(-(left % L + n - 1) // L)
        expected += training_flops(engine.model, left % L + n, 3, [True] * predicted)
    assert spent == expected > sum(training_flops(engine.model, n, 1) for n in lengths)


def test_adamw_alone_trains_every_matrix(rows: Rows) -> None:
    config = replace(CONFIG, optimizer="adamw", grad_clip=0.0)
    model, gradients = with_given_gradients(replace(MODEL, conv=4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = LocalEngine(model, config)
    engine.backward(*GIVEN_BATCH)
    engine.step(rate=0.5)
    check_first_update(model, before, gradients, config, rate=0.5)


def test_compiled_blocks_train_alike(rows: Rows) -> None:
    """What torch.compile makes of the blocks, on a CPU with the rule's torch form, is the same model."""
    tokens, mask = map(torch.from_numpy, rows.batch(slice(8)))
    losses, norms = [], []
    for compiled in (False, True):
        job = TrainingJob("t", replace(MODEL, conv=4), CONFIG, dataset="", output="", scale=Scale(compile=compiled))
        engine = LocalEngine(job.build(), CONFIG)
        losses.append(float(engine.backward(tokens, mask).answers))
        norms.append(float(engine.step(1.0)))
        assert compiled == any(block._compiled_call_impl is not None for block in engine.model.stack)
    assert losses == pytest.approx([losses[0]] * 2, rel=1e-5) and norms == pytest.approx([norms[0]] * 2, rel=1e-4)
