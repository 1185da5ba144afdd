"""Kinds of problems, held against what the generator says that it made."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from datagen import Facts, Gsm, Recall, Rule110
from datagen.gsm.task import to_rows
from pipelines.reporting.questions import control_of, kinds_of
from tests.datagen.gsm.problems import train_tokenizer
from tests.pipelines.unwritten import about


@pytest.mark.parametrize("pretrained", [False, True])
def test_forward_and_reverse_are_told_apart(pretrained: bool, tmp_path: Path) -> None:
    tokenizer = str(train_tokenizer(tmp_path)) if pretrained else None
    task = Gsm(operations=(1, 6), tokens=(600, 800), hard=True, tokenizer=tokenizer)
    samples = list(islice(task.samples("test", int(np.random.default_rng().integers(2**31)), 0), 60))
    modes = [sample.problem.mode for sample in samples]
    assert len(set(modes)) == 2
    assert kinds_of(to_rows(samples, len(task.vocabulary)), about(task)) == modes


def test_a_passage_that_was_read_is_told_from_one_that_was_not() -> None:
    task = Recall(distances=(1, 2))
    kinds = {split: kinds_of(task.sample(split, 0, 0, 6), about(task)) for split in ("train", "test")}
    assert kinds == {"train": ["own"] * 6, "test": ["own", "other"] * 3}
    assert control_of(about(task)) == ("other", "own")


def test_problems_of_two_kinds_are_no_control() -> None:
    for task in (Gsm(), Facts(facts=(8, 16))):
        assert control_of(about(task)) is None


def test_other_tasks_have_one_kind() -> None:
    task = Rule110(cells=8, states=1, steps=2)
    assert kinds_of(task.sample("test", 0, 0, 5), about(task)) == []
