"""An engine, the loop that uses it, and a model that was trained before, agree on what is trained, and how."""

from dataclasses import replace

import pytest
import torch

from datagen import Rows
from sleepmodel.config.training import Truncation
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train
from tests.sleepmodel.tiny import CONFIG, INSERTED, MODEL, TASK


@pytest.fixture(scope="module")
def rows() -> Rows:
    return TASK.sample("train", 0, 0, 64)


def test_the_engine_and_the_loop_have_one_config(rows: Rows) -> None:
    """The engine would clip, cut the backward and step by one, and the loop draw rows and rates by another."""
    engine = LocalEngine(build_model(MODEL, CONFIG), CONFIG)
    engine.backward = None  # type: ignore[assignment, method-assign]
    for other, message in (
        (replace(CONFIG, adam_lr=1e-3), r"config.adam_lr = 0.001: must be 0.002, as in the engine's: give both one"),
        (replace(CONFIG, truncation=Truncation(passes=1)), r"config.truncation = Truncation\(passes=1, .*passes=None"),
    ):
        with pytest.raises(ValueError, match=message):
            train(engine, rows, other, lambda model, level: 0.0, lambda at, write: None)


def test_a_model_is_trained_whole_after_its_inserted_blocks(rows: Rows) -> None:
    """Each training decides anew what rests; what its user has frozen rests in all of them."""
    model = build_model(INSERTED, CONFIG)
    constant = model.blocks[1].mixer.norm.weight.requires_grad_(False)
    new = {name for name, _ in model.named_parameters() if name.startswith(("blocks.1.", "blocks.2."))}
    every = {name for name, _ in model.named_parameters()}
    for trained, expected in (("inserted", new), ("all", every), ("inserted", new)):
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        config = replace(CONFIG, trained=trained)
        train(LocalEngine(model, config), rows, config, lambda model, level: 0.0, lambda at, write: None)
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
        assert moved == expected - {name for name, p in model.named_parameters() if p is constant}
