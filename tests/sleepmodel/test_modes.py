"""A mixer of one's own may draw random numbers: in training alone, and the same where activations are recomputed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datagen import Rows
from sleepmodel import Halting, Session, SleepModel
from sleepmodel.config.training import RECOMPUTE
from sleepmodel.evaluation.accuracy import predict
from sleepmodel.evaluation.probe import read_after
from sleepmodel.modes import in_mode
from sleepmodel.training.engine import LocalEngine, Losses
from sleepmodel.training.loop import Save, build_model, train
from sleepmodel.training.progress import Progress
from tests.sleepmodel.conftest import ANSWERS, MakeModel, gradients, rows
from tests.sleepmodel.own_mixers import DROPPING
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

MIXERS = ("attention", DROPPING)


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
@pytest.mark.parametrize("sleep_on", ANSWERS)
def test_recomputing_draws_the_same_random_numbers(make_model: MakeModel, sleep_on: str, recompute: str) -> None:
    """Gradients to the last bit, and what is drawn afterwards, as a later step would."""

    def found(recompute: str) -> list[Tensor]:
        model.recompute = recompute
        torch.manual_seed(1)
        return [*gradients(model, model(tokens, mask).loss), torch.rand(4)]

    model = make_model(mixers=MIXERS, sleep_passes=3, sleep_on=sleep_on)
    tokens, mask = rows(1, answers=ANSWERS[sleep_on])
    for got, expected in zip(found(recompute), found("nothing"), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def by_session(model: SleepModel, batch: Rows, **options: Any) -> Tensor:
    """Logits of reads, of sleeps between and after them, and of generated tokens."""
    session = Session(model, len(batch), **options)
    tokens = torch.from_numpy(batch.batch()[0])
    read = session.read(tokens)
    session.sleep()
    return torch.cat((read.flatten(), session.generate(2).flatten().double(), session.read(tokens[:, :1]).flatten()))


INFERENCES: dict[str, Callable[[SleepModel, Rows], Tensor]] = {
    "predict": lambda model, batch: torch.from_numpy(predict(model, batch).nats),
    "probe": lambda model, batch: torch.from_numpy(read_after(model, batch, 2).given),
    "session": by_session,
    "halting": lambda model, batch: by_session(model, batch, halting=Halting(change=0.0)),
}


@pytest.mark.parametrize("infer", INFERENCES.values(), ids=INFERENCES)
def test_inference_is_in_evaluation_mode(make_model: MakeModel, infer: Callable[[SleepModel, Rows], Tensor]) -> None:
    """Of a model that is in training mode, which it keeps."""
    model = make_model(mixers=MIXERS, sleep_passes=3, max_positions=None).eval()
    batch = Rows.of(np.random.default_rng(0).integers(0, 5, (4, 9)).tolist(), [[8]] * 4, [[1]] * 4, [[1]] * 4)
    expected = infer(model, batch)
    model.train()
    torch.testing.assert_close(infer(model, batch), expected, rtol=0, atol=0)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("training", [True, False])
def test_training_is_in_training_mode_and_validation_is_not(make_model: MakeModel, training: bool) -> None:
    """Whichever mode the model came with, which it has again at the end; a loaded one is in evaluation mode."""
    model = make_model(mixers=MIXERS, dtype=torch.float32, window=6, vocab_size=3).train(training)
    dropout, seen = model.stack[1].mixer.dropout, list[tuple[str, bool]]()
    engine = LocalEngine(model, CONFIG)
    backward = engine.backward

    def noted(*batch: Any) -> Losses:
        seen.append(("train", dropout.training))
        return backward(*batch)

    def validate(model: SleepModel, level: int | None) -> float:
        seen.append(("validate", dropout.training))
        return 0.0

    engine.backward = noted  # type: ignore[method-assign]
    train(engine, TASK.sample("train", 0, 0, 64), CONFIG, validate, lambda at, save: None)
    assert seen.count(("train", True)) == 12 and seen.count(("validate", False)) == 3 and len(seen) == 15
    assert {module.training for module in model.modules()} == {training}


def test_a_resumed_training_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    """Whatever else has drawn random numbers in between."""
    config, batch = replace(MODEL, mixers=MIXERS), TASK.sample("train", 0, 0, 64)

    def weights(resume: Path | None) -> list[Tensor]:
        def save_first(at: Progress, write: Save) -> None:
            if at.step == CONFIG.validate_every and not resume:
                write(tmp_path)

        engine = LocalEngine(build_model(config, CONFIG), CONFIG)
        torch.rand(5 if resume else 3)
        train(engine, batch, CONFIG, lambda model, level: 0.0, save_first, resume)
        return list(engine.model.parameters())

    for got, expected in zip(weights(None), weights(tmp_path), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_a_mode_ends_with_what_it_began_with_even_after_an_error(make_model: MakeModel) -> None:
    model = make_model(mixers=MIXERS)
    model.stack[0].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(ZeroDivisionError), in_mode(model, training=False):
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == before
    with in_mode(model, training=True):  # which it is in: the user's choice for block 0 stays
        assert [module.training for module in model.modules()] == before
