"""Rule 110: the automaton, the layout of a row, the stream and the splits."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import PAD, Rule110
from datagen.rows import NO_LABEL
from datagen.rule110 import evolved
from datagen.splits import SMALL_SPACE_BITS, split_of
from datagen.task import SPLITS
from datagen.wording import AnsweredQuestion

# Wolfram's table: what (left, centre, right) becomes.
TABLE = {
    (1, 1, 1): 0, (1, 1, 0): 1, (1, 0, 1): 1, (1, 0, 0): 0,
    (0, 1, 1): 1, (0, 1, 0): 1, (0, 0, 1): 1, (0, 0, 0): 0,
}  # fmt: skip

tasks = st.builds(
    Rule110,
    cells=st.integers(3, 70),
    states=st.integers(1, 5),
    steps=st.integers(4, 40),
    shallowest=st.none() | st.integers(0, 4),
    labels=st.sampled_from(["first", "all"]),
)


def moving_task(**fields: Any) -> Rule110:
    """A row cannot state steps that training rows do not have."""
    stated = fields.pop("stated") and max(fields["test_steps"], default=0) <= fields["steps"]
    return Rule110(**fields, stated=stated, traced=True)


moving = st.builds(
    moving_task,
    cells=st.integers(3, 12),
    states=st.integers(1, 3),
    steps=st.integers(2, 7),
    shallowest=st.none() | st.integers(0, 2),
    labels=st.sampled_from(["first", "all", "each"]),
    frame=st.integers(0, 14),
    stated=st.booleans(),
    test_steps=st.sampled_from([(), (2,), (2, 4, 9)]),
)
small_tasks = st.builds(Rule110, cells=st.integers(3, 8), states=st.integers(1, 2), steps=st.integers(0, 4))
seeds = st.integers(0, 2**63 - 1)


def scalar_step(state: list[int]) -> list[int]:
    n = len(state)
    return [TABLE[state[(i - 1) % n], state[i], state[(i + 1) % n]] for i in range(n)]


@given(st.data(), st.integers(3, 40), st.integers(1, 20), st.integers(0, 50))
def test_automaton_equals_the_rule_table(data: st.DataObject, cells: int, n: int, steps: int) -> None:
    states = data.draw(st.lists(st.lists(st.integers(0, 1), min_size=cells, max_size=cells), min_size=n, max_size=n))
    expected = []
    for state in states:
        for _ in range(steps):
            state = scalar_step(state)
        expected.append(state)
    packed = np.array(states, dtype=np.uint8)
    assert evolved(packed, steps, cells).tolist() == expected
    assert evolved(packed, steps, 1).tolist() == [state[:1] for state in expected]


def test_border_is_periodic() -> None:
    # (1, 1, 1) -> 0 and (0, 1, 1) -> 1: the first cell's left neighbour is the last cell.
    states = np.array([[1, 1, 0, 0, 1], [1, 1, 0, 0, 0]], dtype=np.uint8)
    assert evolved(states, 1, 1).tolist() == [[0], [1]]


@given(tasks, st.sampled_from(SPLITS), seeds, st.integers(0, 1000), st.integers(1, 40))
def test_row_layout(task: Rule110, split: str, seed: int, shard: int, n: int) -> None:
    rows = task.sample(split, seed, shard, n)
    tokens, mask = rows.batch()
    bits = task.cells * task.states
    front, context, query, labels = np.split(tokens, np.cumsum([task.context_length - bits, bits, 1]), axis=1)
    assert rows.tokens.shape == (n, task.row_length) == (n, task.context_length + 1 + task.states * task.asked)
    assert rows.tokens.dtype == np.uint16 and rows.tokens.max() < len(task.vocabulary)
    assert front.shape[1] == (task.labels == "all" or task.shallowest is not None)
    assert set(np.unique(context)) <= {0, 1}
    assert (query == task.vocabulary.index("?")).all()
    depths = rows.answer_depth[:, 0]
    for row, states, expected in zip(labels, context.reshape(n, task.states, task.cells), depths, strict=True):
        after = evolved(states.astype(np.uint8), int(expected), task.asked)
        assert (after.reshape(-1) == row).all()

    for answers in (rows.answer_start, rows.answer_length, rows.answer_depth):
        assert answers.shape == (n, task.states * task.asked)
        assert answers.dtype == np.int32
    assert (rows.answer_depth == depths[:, None]).all() and (rows.depths == depths).all()
    low = task.steps if task.shallowest is None else task.shallowest
    assert low <= depths.min() and depths.max() <= task.steps
    if task.shallowest is not None:
        assert [task.vocabulary[token] for token in front[:, 0]] == [f"t{depth}" for depth in depths]
    else:
        assert (front == PAD).all()
    assert (rows.answer_length == 1).all()
    assert (np.take_along_axis(tokens, rows.answer_start.astype(np.int64), axis=1) == labels).all()
    assert (mask == (np.arange(task.row_length) > task.context_length)).all()


def test_steps_are_drawn_evenly_and_apart_from_the_states() -> None:
    task = Rule110(cells=48, states=1, steps=5, shallowest=2)
    rows = task.sample("train", 3, 0, 40_000)
    counts = np.bincount(rows.depths, minlength=6)
    assert counts[:2].sum() == 0
    # 5 standard deviations of a share of a quarter, and of a correlation
    assert np.abs(counts[2:] / 40_000 - 0.25).max() < 5 * (0.25 * 0.75 / 40_000) ** 0.5
    both = np.corrcoef(np.concatenate([rows.tokens[:, 1:49].astype(float), rows.depths[:, None]], axis=1).T)
    assert np.abs(both[-1, :-1]).max() < 5 / 40_000**0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 3, "shallowest": 4}, r"shallowest = 4: must be an integer of at least 0, and at most 3"),
        ({"shallowest": -1}, "shallowest = -1: must be an integer of at least 0"),
        ({"frame": -1}, "frame = -1: must be an integer of at least 0"),
        ({"traced": 1}, "traced = 1: must be true or false"),
        ({"stated": None}, "stated = None: must be true or false"),
        ({"test_steps": 4}, "test_steps = 4: must be a list of numbers of steps"),
        ({"test_steps": (4, -1)}, "test_steps = -1: must be an integer of at least 0"),
        ({"steps": 4, "shallowest": 1, "test_steps": (4, 8)}, "test_steps = 8: must be an integer .* at most 4"),
        ({"labels": "some"}, "labels = 'some': must be one of first, all, each"),
    ],
)
def test_a_bad_curriculum_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule110(**fields)


def laid_out(task: Rule110, row: list[int], start: int, marks: int, per_state: int) -> list[list[int]]:
    """What stands for each state from `start` on: after each of the marks if each state has one, else after them."""
    if task.labels == "each":
        return [row[start + s * (1 + per_state) + 1 :][:per_state] for s in range(task.states)]
    return [row[start + marks + s * per_state :][:per_state] for s in range(task.states)]


@given(moving, st.sampled_from(SPLITS), seeds, st.integers(1, 5))
def test_labels_and_traces_are_the_states_in_a_moving_frame(task: Rule110, split: str, seed: int, n: int) -> None:
    """Against a plain evolution, place by place."""
    rows = task.sample(split, seed, 0, n)
    traces = rows.trace_batch()
    assert (traces is not None) == (split == "train")
    front = task.context_length - task.cells * task.states
    for i, tokens in enumerate(rows.tokens.tolist()):
        states = laid_out(task, tokens, 0, front, task.cells)
        labels = laid_out(task, tokens, task.context_length, 1, task.asked)
        steps = int(rows.depths[i])
        least = task.steps if task.shallowest is None else task.shallowest
        assert steps in ((split == "test" and task.test_steps) or range(least, task.steps + 1))
        for step in range(1, steps + 1):
            states = [scalar_step(state) for state in states]
            moved = [[state[(p - task.frame * step) % task.cells] for p in range(task.cells)] for state in states]
            if traces is not None:
                told = traces[i, step - 1].tolist()
                assert laid_out(task, told, 0, front, task.cells) == moved
                assert sum(label != NO_LABEL for label in told) == task.cells * task.states
        if steps:
            assert labels == [state[: task.asked] for state in moved]
        if traces is not None:
            assert rows.trace_counts[i] == steps and (traces[i, steps:] == NO_LABEL).all()


def test_a_window_for_each_state() -> None:
    task = Rule110(cells=6, states=3, steps=2, labels="each")
    task.check_window(7)
    with pytest.raises(ValueError, match=r"window = 21: must be cells \+ 1 = 7 with labels = each"):
        task.check_window(21)
    row = [task.vocabulary[token] for token in task.sample("train", 0, 0, 1).tokens[0]]
    assert [place for place, word in enumerate(row) if word == "|"] == [0, 7, 14]
    assert [place for place, word in enumerate(row) if word == "?"] == [21, 28, 35]


@given(moving, seeds, st.data())
def test_a_question_names_the_cell_that_is_asked_for(task: Rule110, seed: int, data: st.DataObject) -> None:
    rows = task.sample("test", seed, 0, 1)
    words = [task.vocabulary[token] for token in rows.tokens[0]]
    starts, depth = rows.answer_start[0].tolist(), int(rows.depths[0])
    number = data.draw(st.integers(0, len(starts) - 1))
    text = task.question_text(AnsweredQuestion(words, starts, number, 1, depth, ["1"]))
    found = re.fullmatch(r"(?:State \d of \d: )?([01]+)\. Cell (\d+) after (\d+) steps\?", text.problem)
    assert found and int(found[3]) == depth
    state = [int(cell) for cell in found[1]]
    for _ in range(depth):
        state = scalar_step(state)
    assert str(state[int(found[2]) - 1]) == text.right


def test_new_fields_change_no_identity() -> None:
    assert Rule110(24, 1, 4, 1, "all").identity() == {
        "cells": 24,
        "states": 1,
        "steps": 4,
        "shallowest": 1,
        "labels": "all",
    }
    assert Rule110(traced=True).identity()["traced"] is True


def test_states_are_fair_independent_bits() -> None:
    rows = Rule110().sample("train", seed=7, shard=0, rows=20_000)
    bits = rows.tokens[:, :96].astype(float)
    # 5 standard deviations of a mean, and of a correlation, of 20,000 fair bits.
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 20_000**0.5
    assert np.abs(np.corrcoef(bits.T) - np.eye(96)).max() < 5 / 20_000**0.5


def test_sample_is_the_same_in_every_version() -> None:
    """Datasets that stand on someone's disk must stay what their fingerprint says."""
    digests = {
        cells: hashlib.sha256(Rule110(cells=cells).sample("test", seed=3, shard=5, rows=9).tokens.tobytes()).hexdigest()
        for cells in (8, 24)
    }
    assert {cells: digest[:16] for cells, digest in digests.items()} == {8: "3af5d8b41b9f8560", 24: "a66b3bd623584150"}


@given(
    st.sampled_from([Rule110(8, 2, 3), Rule110(24, 4, 3), Rule110(8, 2, 3, 1, "all")]),
    st.sampled_from(SPLITS),
    seeds,
    st.data(),
)
def test_fewer_rows_are_a_prefix(task: Rule110, split: str, seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 300))
    k = data.draw(st.integers(1, n - 1))
    assert (task.sample(split, seed, 1, k).tokens == task.sample(split, seed, 1, n)[:k].tokens).all()


@pytest.mark.parametrize("cells", [8, 24])
def test_config_split_seed_and_shard_all_change_the_rows(cells: int) -> None:
    samples = [
        Rule110(cells, 4, 3).sample("train", 0, 0, 50),
        Rule110(cells, 4, 4).sample("train", 0, 0, 50),
        Rule110(cells, 4, 3).sample("test", 0, 0, 50),
        Rule110(cells, 4, 3).sample("train", 1, 0, 50),
        Rule110(cells, 4, 3).sample("train", 0, 1, 50),
    ]
    assert len({rows.tokens[:, : cells * 4].tobytes() for rows in samples}) == len(samples)


@given(small_tasks, st.lists(seeds, min_size=3, max_size=3))
def test_splits_of_a_small_task_share_no_context(task: Rule110, split_seeds: list[int]) -> None:
    seen: dict[bytes, str] = {}
    for split, seed in zip(SPLITS, split_seeds, strict=True):
        for row in task.sample(split, seed, 0, 400).tokens:
            assert seen.setdefault(row[: task.context_length].tobytes(), split) == split


@pytest.mark.parametrize("split", SPLITS)
def test_the_smallest_task_has_every_split(split: str) -> None:
    # The contexts 0..7 exist at every size, so no larger space can be without a split either.
    assert split in split_of(np.arange(8, dtype=np.uint64))
    assert len(Rule110(cells=3, states=1).sample(split, 0, 0, 10)) == 10


def test_split_shares_and_drawn_contexts() -> None:
    """About an eighth of the contexts to test and validation each, and every context of a split is drawn."""
    task = Rule110(cells=10, states=1, steps=0)
    contexts = {split: len(np.unique(task.sample(split, 0, 0, 30_000).tokens, axis=0)) for split in SPLITS}
    assert sum(contexts.values()) == 2**10
    assert 90 < contexts["test"] < 170
    assert 90 < contexts["validation"] < 170


def test_hash_holds_up_to_the_stated_limit() -> None:
    task = Rule110(cells=SMALL_SPACE_BITS, states=1)
    tokens = task.sample("test", 0, 0, 500).tokens[:, :SMALL_SPACE_BITS].astype(np.uint64)
    words = (tokens << np.arange(SMALL_SPACE_BITS, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
    assert (split_of(words) == "test").all()


@given(
    st.sampled_from([("cells", 3, 4096), ("states", 1, 64), ("steps", 0, 4096)]),
    st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text()),
)
def test_config_refuses_what_it_cannot_be(field: tuple[str, int, int], value: object) -> None:
    name, low, high = field
    if type(value) is int and low <= value <= high:
        assert getattr(Rule110(**{name: value}), name) == value
        return
    with pytest.raises(ValueError) as error:
        Rule110(**{name: value})  # type: ignore[arg-type]
    message = str(error.value)
    assert all(part in message for part in (name, repr(value), f"at least {low}, and at most {high}"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("dev", 0, 0, 1), "split"),
        (("train", -1, 0, 1), "seed"),
        (("train", True, 0, 1), "seed"),
        (("train", 0, -1, 1), "shard"),
        (("train", 0, 0, 0), "rows"),
    ],
)
def test_sample_refuses(arguments: tuple[str, int, int, int], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} .*must be"):
        Rule110().sample(*arguments)


def test_import_and_sample_need_numpy_alone() -> None:
    program = """
import sys
import datagen
datagen.Rule110().sample("train", 0, 0, 1)
assert not {"pyarrow", "ray", "torch", "rich"} & set(sys.modules)
datagen.load
assert "ray" not in sys.modules
assert callable(datagen.generate)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
