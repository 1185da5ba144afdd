"""Depo: the layout of a row, its answers and traces, the splits, configs and files."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import PAD, Depo, Rows, load, read_rows
from datagen.depo import SMALL_NODES
from datagen.depo_text import Puzzle, parse
from datagen.rows import COLUMNS, NO_LABEL, Ragged
from datagen.schema import DATASET_FILE, FORMAT_VERSION, Dataset, Split, shard_path
from datagen.shards import ensure_shard
from datagen.splits import split_of
from datagen.task import SPLITS
from datagen.wording import AnsweredQuestion

PAPER = Depo()

plain = st.builds(Depo, nodes=st.integers(3, 14), hops=st.integers(1, 20), queries=st.integers(1, 16))
seeds = st.integers(0, 2**63 - 1)


def one_token_task(**fields: Any) -> Depo:
    """Fields that need one another are there together."""
    alike, named = fields["drawn"] == "alike", fields["names"] is not None
    stated, pointers = fields.pop("stated") or not alike, fields.pop("pointers") if named else None
    if pointers == "questions":
        fields["queries"] = min(fields["queries"], fields["least"])
    test_hops = tuple(k for k in (1, 3, 21) if k <= fields["hops"] or not stated)
    ahead, traced = fields.pop("ahead") if pointers else 1, alike and pointers is not None
    fields = {name: value for name, value in fields.items() if name not in ("ahead", "pointers")}
    return Depo(**fields, stated=stated, pointers=pointers, ahead=ahead, traced=traced, test_hops=test_hops)


others = st.builds(
    one_token_task,
    nodes=st.integers(4, 9),
    hops=st.integers(1, 7),
    queries=st.integers(1, 9),
    names=st.none() | st.integers(9, 60),
    least=st.integers(3, 4),
    drawn=st.sampled_from(["each", "below", "alike"]),
    stated=st.booleans(),
    pointers=st.sampled_from([None, "edges", "questions"]),
    ahead=st.integers(1, 4),
)


def puzzles(task: Depo, rows: Rows) -> list[Puzzle]:
    """The rows as what their tokens say, and their depths where questions do not state their hops."""
    vocabulary, hops = task.vocabulary, rows.depths.tolist()
    return [
        parse([vocabulary[token] for token in row], None if task.stated else k)
        for row, k in zip(rows.tokens.tolist(), hops, strict=True)
    ]


def check_rows(task: Depo, split: str, rows: Rows) -> None:
    """Everything that the docstring of Depo says of a row."""
    assert isinstance(rows.tokens, Ragged) and rows.tokens.values.dtype == np.uint16
    columns = [column.tolist() for name, column in rows.columns().items() if name in COLUMNS]
    for tokens, start, length, depth, puzzle in zip(*columns, puzzles(task, rows), strict=True):
        n, questions = len(puzzle.edges), puzzle.questions
        assert task.least <= n <= task.nodes and (split == "train" or n == task.nodes)
        assert len(questions) == min(task.queries, n) == len({question.node for question in questions})
        assert all(puzzle.solve(question) == question.answer for question in questions)
        assert puzzle.ahead == 1 or (split == "train" and puzzle.ahead <= task.ahead)
        every = range(1, task.hops + 1)
        powers = [k for k in every if k.bit_count() == 1]
        shared = split == "train" or (split == "validation" and task.drawn != "each")
        hops = {question.hops for question in questions}
        assert hops <= set(every if shared else (split == "test" and task.test_hops) or powers)
        assert len(hops) == 1 or task.drawn != "alike"

        assert task.vocabulary[tokens[task.context_length]] == (f"?{questions[0].hops}" if task.stated else "?")
        assert task.context_length + 4 * len(questions) <= len(tokens) <= task.row_length
        assert start == [question.start for question in questions]
        assert length == [len(question.answer) for question in questions]
        assert depth == [question.hops for question in questions]

    batch, mask = rows.batch()
    assert not (mask & (batch == PAD)).any()
    real = batch[:, : task.context_length] != PAD
    assert (np.diff(real.astype(int), axis=1) >= 0).all(), "pads are at the left of the context"
    assert (batch < len(task.vocabulary) - 1).all()


@given(plain | others, st.sampled_from(SPLITS), seeds, st.integers(0, 1000), st.integers(1, 6))
def test_rows_are_what_they_say(task: Depo, split: str, seed: int, shard: int, n: int) -> None:
    rows = task.sample(split, seed, shard, n)
    assert len(rows) == n
    check_rows(task, split, rows)


@pytest.mark.parametrize("split", SPLITS)
def test_rows_of_the_paper(split: str) -> None:
    rows = PAPER.sample(split, 0, 0, 500)
    check_rows(PAPER, split, rows)
    assert PAPER.row_length == 360 and PAPER.context_length == 300
    assert isinstance(rows.answer_start, Ragged)
    assert rows.answer_start.values.min() > 300 and rows.lengths.max() <= 360  # all in the fifth window of 75
    assert len(PAPER.vocabulary) == len(set(PAPER.vocabulary)) == 118
    assert PAPER.vocabulary[-1] == "<pad>" and rows.pad == 117


@given(others, st.sampled_from(SPLITS), seeds)
def test_traces_follow_the_cycle_hop_by_hop(task: Depo, split: str, seed: int) -> None:
    """From what the row's edges alone say: the context with moved pointers; nothing at pads and questions."""
    rows = task.sample(split, seed, 0, 4)
    assert (rows.traces is not None) == (task.traced and split == "train")
    if rows.traces is None:
        return
    vocabulary = task.vocabulary
    cases = zip(rows.traces.tolist(), rows.lengths.tolist(), rows.depths.tolist(), puzzles(task, rows), strict=True)
    for labels, width, hops, puzzle in cases:
        expected: list[str | None] = []
        following = dict(puzzle.edges)
        pointers = {source: source for source in following}
        for _ in range(puzzle.ahead):
            pointers = {source: following[pointer] for source, pointer in pointers.items()}
        for _ in range(hops):
            pointers = {source: following[pointer] for source, pointer in pointers.items()}
            context = [
                word
                for edge in puzzle.edges
                for word in (*edge[0], *edge[1], ":", *(pointers[edge[0]] if task.pointers == "edges" else ()))
            ]
            if task.pointers == "questions":
                asking = f"?{hops}" if task.stated else "?"
                nodes = [question.node for question in puzzle.questions]
                context += [word for node in nodes for word in (asking, *node, ":", *pointers[node])]
            pads = task.context_length - len(context)
            expected += [None] * pads + context + [None] * (width - task.context_length)
        assert [None if label == NO_LABEL else vocabulary[label] for label in labels] == expected


def test_pointers_of_training_rows_begin_anywhere_on_the_cycle() -> None:
    task = Depo(7, 4, 2, names=30, least=7, drawn="alike", stated=False, pointers="edges")
    rows = replace(task, ahead=5).sample("train", 3, 0, 400)
    found = Counter(puzzle.ahead for puzzle in puzzles(task, rows))
    assert set(found) == {1, 2, 3, 4, 5} and min(found.values()) > 40
    for split in ("validation", "test"):
        assert {puzzle.ahead for puzzle in puzzles(task, replace(task, ahead=5).sample(split, 3, 0, 50))} == {1}


@pytest.mark.parametrize("pointers", ["edges", "questions"])
def test_no_two_splits_share_a_cycle_wherever_its_pointers_begin(pointers: str) -> None:
    """And whatever is asked of it: of five names there are few cycles, so each split meets most of its own."""
    task = Depo(3, 4, 2, names=5, drawn="alike", stated=False, pointers=pointers, ahead=3)  # type: ignore[arg-type]
    seen = {split: {puzzle.edges for puzzle in puzzles(task, task.sample(split, 1, 0, 600))} for split in SPLITS}
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) > 100


def test_pointers_need_one_window() -> None:
    """An edge that is read in a later window cannot be followed."""
    Depo(8, 4, 4, names=32).check_window(8 * 2)
    pointing = Depo(8, 4, 4, names=32, pointers="edges")
    pointing.check_window(32)
    asking = Depo(8, 4, 3, names=32, pointers="questions")
    asking.check_window(12)
    with pytest.raises(ValueError, match=r"window = 24: must be 4 \* queries = 12"):
        asking.check_window(24)
    for task in (replace(asking, queries=2), replace(asking, nodes=10)):
        with pytest.raises(
            ValueError, match=f"queries = {task.queries}: must be a multiple of 3 such that 4 .* queries"
        ):
            task.check_window(4 * task.queries)
    with pytest.raises(ValueError, match=r"window = 16: must be the context's 32 tokens, as pointers cannot"):
        pointing.check_window(16)


def test_a_question_without_hops_is_told_with_its_depth() -> None:
    task = Depo(6, 4, 2, names=9, drawn="alike", stated=False, pointers="edges", test_hops=(7,))
    rows = task.sample("test", 0, 0, 1)
    words, (starts,) = [task.vocabulary[token] for token in rows.tokens.tolist()[0]], rows.answer_start.tolist()
    text = task.question_text(AnsweredQuestion(words, starts, 1, 1, 7, words[starts[1] :][:1]))
    found = re.fullmatch(r"((y\d+) → .*) → \2 \(6 nodes\)\. 7 hops from \2\?", text.problem)
    assert found and text.right == found[1].split(" → ")[1]  # seven hops on six nodes
    assert text.given == f"{text.right} (1 hops away)"


def test_new_fields_change_no_identity() -> None:
    assert PAPER.identity() == {"nodes": 75, "hops": 16, "queries": 10}
    assert Depo(names=80).identity()["names"] == 80


@given(st.sampled_from([PAPER, Depo(9, 4, 9), Depo(4, 4, 3)]) | others, st.sampled_from(SPLITS), seeds, st.data())
def test_fewer_rows_are_a_prefix(task: Depo, split: str, seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 40))
    k = data.draw(st.integers(1, n - 1))
    many, few = task.sample(split, seed, 1, n), task.sample(split, seed, 1, k)
    for name, column in few.columns().items():
        assert column.tolist() == many[:k].columns()[name].tolist()


def test_blocks_shape_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PAPER.sample("train", 0, 0, 200)
    monkeypatch.setattr("datagen.depo.BLOCK_ROWS", 7)
    assert PAPER.sample("train", 0, 0, 200).tokens.tolist() == whole.tokens.tolist()


def test_config_split_seed_and_shard_all_change_the_rows() -> None:
    samples = [
        PAPER.sample("train", 0, 0, 5),
        replace(PAPER, hops=15).sample("train", 0, 0, 5),
        PAPER.sample("test", 0, 0, 5),
        PAPER.sample("train", 1, 0, 5),
        PAPER.sample("train", 0, 1, 5),
    ]
    assert len({rows.batch()[0][:, : PAPER.context_length].tobytes() for rows in samples}) == len(samples)


def test_sample_is_the_same_in_every_version() -> None:
    """Datasets that stand on someone's disk must stay what their fingerprint says."""
    digests = [
        hashlib.sha256(b"".join(column.values.tobytes() for column in rows.columns().values())).hexdigest()[:16]
        for rows in (
            PAPER.sample("train", 3, 5, 50),
            PAPER.sample("test", 3, 5, 50),
            Depo(5, 4, 4).sample("test", 3, 5, 9),
        )
    ]
    assert digests == ["89151c042088b626", "79837c3e4c8adf50", "4f02d8d5a609a83a"]


# Splits


@pytest.mark.parametrize("nodes", [3, 5])
def test_splits_of_a_small_task_share_no_context(nodes: int) -> None:
    """20,000 free draws in each of two splits would share about 26 contexts of three nodes, and thousands of five."""
    task = {3: Depo(nodes=3, hops=2, queries=1), 5: Depo(5, 2, 1, names=5, least=5)}[nodes]
    contexts = [
        {row.tobytes() for row in task.sample(split, seed, 0, 20_000).batch()[0][:, : task.context_length]}
        for seed, split in enumerate(SPLITS)
    ]
    assert len(set().union(*contexts)) == sum(map(len, contexts))


@given(st.integers(3, SMALL_NODES), st.sampled_from(SPLITS), seeds)
def test_the_hash_holds_up_to_the_stated_limit(nodes: int, split: str, seed: int) -> None:
    task = Depo(nodes, hops=2, queries=1)
    tokens, _ = task.sample(split, seed, 0, 20).batch()
    tokens[tokens == PAD] = task.vocabulary.index("<pad>")
    context = [row[: task.context_length] for row in tokens.tolist()]
    words = [reduce(lambda word, token: (word * 0x9E3779B97F4A7C15 + token) % 2**64, row, 0) for row in context]
    assert (split_of(np.array(words, dtype=np.uint64)) == split).all()


# Configs and files


@given(
    st.sampled_from([("nodes", 3, 2550), ("hops", 1, 4096), ("queries", 1, 2550)]),
    st.one_of(st.integers(), st.integers(1, 100), st.floats(), st.booleans(), st.none(), st.text()),
)
def test_config_refuses_what_it_cannot_be(field: tuple[str, int, int], value: object) -> None:
    name, low, high = field
    if type(value) is int and low <= value <= high:
        assert getattr(Depo(**{name: value}), name) == value  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError) as error:
        Depo(**{name: value})  # type: ignore[arg-type]
    assert all(part in str(error.value) for part in (name, repr(value), f"at least {low}, and at most {high}"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": 74}, r"names = 74: must be an integer of at least 75, and at most 2550"),
        ({"nodes": 3, "names": 4}, "names = 4: must be an integer of at least 5"),
        ({"least": 2}, r"least = 2: must be an integer of at least 3, and at most 75"),
        ({"least": 76}, "least = 76: must be"),
        ({"drawn": "some"}, "drawn = 'some': must be one of each, below, alike"),
        ({"stated": 0, "drawn": "alike"}, "stated = 0: must be true or false"),
        ({"stated": False}, "stated = False: must be true with drawn = each"),
        ({"test_hops": 4}, "test_hops = 4: must be a list of numbers of hops"),
        ({"test_hops": (17,)}, "test_hops = 17: must be an integer of at least 1, and at most 16"),
        ({"pointers": "edges"}, "pointers = 'edges': must be null without names"),
        ({"names": 80, "traced": True}, "traced = True: must be false without pointers"),
        ({"names": 80, "pointers": True}, "pointers = True: must be null, edges or questions"),
        ({"names": 80, "pointers": "questions"}, "queries = 10: must be at most least = 3 with"),
        ({"names": 80, "ahead": 2}, "ahead = 2: must be 1 without pointers"),
        (
            {"names": 80, "pointers": "edges", "ahead": 76},
            "ahead = 76: must be an integer of at least 1, and at most 75",
        ),
        ({"names": 80, "pointers": "edges", "traced": True}, "traced = True: must be false with drawn = each"),
    ],
)
def test_fields_that_contradict_one_another_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Depo(**fields)


@pytest.mark.parametrize("split", SPLITS)
def test_each_question_can_be_asked_alone_at_any_depth(split: str) -> None:
    task = Depo(nodes=7, hops=9, queries=4, names=20, drawn="below")
    rows = task.sample(split, 0, 0, 40)
    of_row = puzzles(task, rows)
    assert split != "train" or len({len(puzzle.edges) for puzzle in of_row}) > 2  # so that some contexts have pads
    for depth in (1, 5, 9):
        alone = task.asked_at(rows, depth)
        found, (start, length, depths) = puzzles(task, alone), alone.answers()
        asked = [(puzzle.edges, question.node) for puzzle in of_row for question in puzzle.questions]
        assert [(puzzle.edges, *(question.node for question in puzzle.questions)) for puzzle in found] == asked
        for puzzle in found:
            (question,) = puzzle.questions
            assert question.hops == depth and puzzle.solve(question) == question.answer
            assert question.start == task.context_length + 3
        assert {*start.flat} == {task.context_length + 3} and {*length.flat} == {1} and {*depths.flat} == {depth}


@pytest.mark.parametrize(
    ("fields", "depth", "message"),
    [
        ({"names": None}, 1, "names = None: must be a number, for names of one token"),
        ({"pointers": "edges"}, 1, "pointers = 'edges': must be null"),
        ({"stated": False, "drawn": "alike"}, 1, "stated = False: must be true"),
        ({}, 0, "depth = 0: must be an integer of at least 1, and at most 3"),
        ({}, 4, "depth = 4: must be an integer of at least 1, and at most 3"),
    ],
)
def test_questions_that_cannot_be_asked_at_another_depth_are_refused(
    fields: dict[str, Any], depth: int, message: str
) -> None:
    task = Depo(**{"nodes": 5, "hops": 3, "queries": 2, "names": 9, **fields})
    with pytest.raises(ValueError, match=message):
        task.asked_at(task.sample("test", 0, 0, 2), depth)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("dev", 0, 0, 1), "split"),
        (("train", -1, 0, 1), "seed"),
        (("train", 0, -1, 1), "shard"),
        (("test", 0, 0, 0), "rows"),
    ],
)
def test_sample_refuses(arguments: tuple[str, int, int, int], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} .*must be"):
        PAPER.sample(*arguments)


def test_the_largest_task() -> None:
    task = Depo(nodes=2550, hops=4096, queries=3)
    rows = task.sample("test", 0, 0, 1)
    (puzzle,) = puzzles(task, rows)
    assert len(puzzle.edges) == 2550  # every name there is


def test_shards_are_read_as_they_were_made(tmp_path: Path) -> None:
    sizes = (40, 25)
    shards = tuple(
        ensure_shard(shard_path(tmp_path, "train", number), PAPER, "train", 2, number, rows, listed=None)
        for number, rows in enumerate(sizes)
    )
    dataset = Dataset(FORMAT_VERSION, "depo", asdict(PAPER), PAPER.vocabulary, 2, {"train": Split(sum(sizes), shards)})
    (tmp_path / DATASET_FILE).write_text(dataset.to_json())

    made = [PAPER.sample("train", 2, number, rows) for number, rows in enumerate(sizes)]
    for wanted in (None, 1, 40, 41):
        read, table = read_rows(tmp_path, "train", wanted), load(tmp_path, "train", wanted)
        assert read.pad == PAPER.vocabulary.index("<pad>")
        for name, column in read.columns().items():
            expected = [values for rows in made for values in rows.columns()[name].tolist()][:wanted]
            assert column.tolist() == expected == table.column(name).to_pylist()
            assert column.values.dtype == made[0].columns()[name].values.dtype
    assert table.schema.field("tokens").type.equals(pa.list_(pa.field("element", pa.uint16(), nullable=False)))
    batch, whole = read_rows(tmp_path, "train").batch(np.arange(40)), made[0].batch()
    assert all((ours == theirs).all() for ours, theirs in zip(batch, whole, strict=True))
