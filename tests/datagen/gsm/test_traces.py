"""The traces of problems: each number, worked out from the text alone, stands where it can be known, nowhere else."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Gsm, check_task, generate, read_rows
from datagen.gsm.encoder import encoder_of
from datagen.gsm.problem import Problem
from datagen.gsm.quantity import UNKNOWN, Quantity
from datagen.gsm.solver import solve
from datagen.gsm.text import read_context, read_question, write_question
from datagen.gsm.themes import THEMES
from datagen.rows import NO_LABEL, PAD_NAME
from datagen.task import SPLITS
from tests.datagen.gsm.problems import train_tokenizer

DISTRACTORS: tuple[Literal["official", "short"], ...] = ("official", "short")
SMALL: dict[str, Any] = {"operations": (2, 3), "tokens": (192, 260)}


@st.composite
def traced(draw: st.DrawFn) -> Gsm:
    most, shortest = draw(st.integers(1, 6)), draw(st.integers(300, 400))
    distractors, numbers = draw(st.sampled_from(DISTRACTORS)), draw(st.integers(2, 20))
    longest = encoder_of(None).longest_sentence(distractors, numbers)
    return Gsm(
        operations=(draw(st.integers(1, most)), most),
        tokens=(shortest, shortest + longest + draw(st.integers(0, 40))),
        hard=draw(st.booleans()),
        numbers=numbers,
        distractors=distractors,
        reverse=draw(st.booleans()),
        theme=draw(st.none() | st.sampled_from([theme.name for theme in THEMES])),
        names=draw(st.integers(12, 32)),
        traced=True,
    )


def worked_out(problem: Problem, passes: int) -> list[dict[Quantity | int, int]]:
    """What is known after each pass, from the text alone: the number of each sentence, by its index, and of the asked
    quantity, by its name. A pass resolves all that depends on what the passes before it have resolved."""
    theme = next(theme for theme in THEMES if theme.name == problem.theme)
    statements, asked = read_context(problem.context), read_question(problem.question)
    operands = [quantity for _, expression in statements for quantity in expression.operands]
    mentioned = dict.fromkeys([asked, *(quantity for quantity, _ in statements), *operands])

    def counted(total: Quantity) -> list[Quantity]:
        there = [each for each in mentioned if each.kind == "number" and each.place == total.place]
        return there if total.kind == "total" else there + [each._replace(kind="average") for each in there]

    def number(quantity: Quantity) -> int:
        return solve("".join(write_question(theme, quantity)), problem.context).answer

    known, found = set[Quantity](), list[dict[Quantity | int, int]]()
    for _ in range(passes):
        ready = {
            i: quantity
            for i, (quantity, expression) in enumerate(statements)
            if expression != UNKNOWN and known.issuperset(expression.operands)
        }
        summed = {each for each in mentioned if not each.thing and known.issuperset(counted(each))}
        at: dict[Quantity | int, int] = {i: number(quantity) for i, quantity in ready.items()}
        found.append({**at, asked: number(asked)} if asked in known else at)
        known |= {*ready.values(), *summed}
    return found


@given(traced(), st.integers(0, 2**63 - 1))
def test_labels_are_what_the_text_gives_one_level_a_pass(task: Gsm, seed: int) -> None:
    """And nothing else: no label at pads, at the answer or at any other token."""
    rows, words = task.sample("train", seed, 0, 3), task.vocabulary
    traces, (tokens, _) = rows.trace_batch(), rows.batch()
    assert traces is not None
    for i, (problem, *_) in enumerate(islice(task.samples("train", seed, 0), 3)):
        marks = {mark: np.flatnonzero(tokens[i] == words.index(mark)).tolist() for mark in "?."}
        (question,), stops = marks["?"], marks["."]
        passes = problem.operations + 1
        assert rows.trace_counts[i] == passes and (traces[i, passes:] == NO_LABEL).all()
        for labels, known in zip(traces[i, :passes], worked_out(problem, passes), strict=True):
            expected = {question if isinstance(at, tuple) else stops[at]: number for at, number in known.items()}
            places = np.flatnonzero(labels != NO_LABEL).tolist()
            assert {place: int(words[labels[place]]) for place in places} == expected
        if problem.mode == "forward":
            assert words[traces[i, passes - 1, question]] == str(problem.answer)


@given(traced(), st.sampled_from(SPLITS), st.integers(0, 2**63 - 1))
def test_pads_fill_one_window_with_the_context(task: Gsm, split: str, seed: int) -> None:
    rows, window = task.sample(split, seed, 0, 3), task.context_length
    assert window is not None and (rows.traces is not None) == (split == "train")
    assert (rows.lengths == task.row_length).all() and (rows.answer_start.values == window + 2).all()  # type: ignore[union-attr]
    task.check_window(window)
    for row, (problem, *_) in zip(rows.tokens.tolist(), islice(task.samples(split, seed, 0), 3), strict=True):
        real = [word for word in (task.vocabulary[token] for token in row) if word != PAD_NAME]
        assert row.count(len(task.vocabulary) - 1) == len(row) - len(real)
        assert encoder_of(None).vocabulary.encode(problem.prompt + problem.completion) == row[-len(real) :]
        assert window + 1 >= len(real) - 2 and task.tokens[0] <= len(real)


def test_the_numbers_of_text_and_the_themes_are_those_of_the_config() -> None:
    task = Gsm(**SMALL, numbers=20, distractors="short", reverse=False, theme="movie_festival_awards", names=9)
    problems = [sample.problem for sample in islice(task.samples("test", 0, 0), 300)]
    statements = [statement for problem in problems for statement in read_context(problem.context)]
    constants = {expression.constant for _, expression in statements if expression.constant is not None}
    assert constants == set(range(1, 21))
    assert {(problem.theme, problem.mode) for problem in problems} == {("movie_festival_awards", "forward")}
    for names in (
        {quantity.thing for quantity, _ in statements} - {""},
        {quantity.place for quantity, _ in statements},
    ):
        assert len(names) == 9
    plain = [expression for _, expression in statements if not expression.operands]
    assert 0.5 < len(plain) / len(statements) < 0.7
    assert len([e for _, e in statements if len(e.operands) > 1]) < 0.05 * len(statements)  # of cores alone


def test_a_traced_dataset_comes_back_from_its_files(tmp_path: Path, ray_cluster: str) -> None:
    task = Gsm(**SMALL, traced=True)
    check_task(task)
    found, made = read_rows(generate(task, "train", 6, 3, tmp_path), "train"), task.sample("train", 3, 0, 6)
    for ours, theirs in zip(found.batch(), made.batch(), strict=True):
        assert (ours == theirs).all()
    assert np.array_equal(found.trace_batch(), made.trace_batch())


def test_names_do_not_run_out_at_the_least_that_is_allowed() -> None:
    cases: list[tuple[int, dict[str, Any]]] = [
        (6, {"operations": (1, 1), "tokens": (120, 190)}),
        (10, {"operations": (4, 4), "tokens": (300, 400), "hard": True}),
        (22, {"operations": (16, 16), "tokens": (700, 780), "hard": True}),
    ]
    for names, fields in cases:
        assert len(Gsm(**fields, names=names).sample("train", 0, 0, 100)) == 100
        with pytest.raises(ValueError, match=f"names = {names - 1}: must be at least {names}, so that problems of"):
            Gsm(**fields, names=names - 1)


def test_a_task_without_the_new_fields_is_what_it_was() -> None:
    assert Gsm().identity() == {"operations": (1, 8), "tokens": (2000, 3300), "hard": False, "tokenizer": None}
    assert Gsm().trace_labels == 0 and Gsm().context_length is None


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"numbers": 1}, "numbers = 1: must be an integer of at least 2, and at most 20"),
        ({"numbers": 21}, "numbers = 21: must be an integer of at least 2, and at most 20"),
        ({"distractors": "none"}, "distractors = 'none': must be one of official, short"),
        ({"reverse": 0}, "reverse = 0: must be true or false"),
        ({"traced": 1}, "traced = 1: must be true or false"),
        ({"theme": "zoo"}, "theme = 'zoo': must be one of crazy_zootopia, movie_festival_awards, teachers_in_school"),
        ({"names": 33}, "names = 33: must be an integer of at least 1, and at most 32"),
    ],
)
def test_refuses_bad_configs(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Gsm(**SMALL, **config)


def test_refuses_traces_whose_labels_no_model_could_use(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="traced = True: must be false with a tokenizer: a label is one token"):
        Gsm(tokenizer=str(train_tokenizer(tmp_path)), traced=True)
    with pytest.raises(ValueError, match=r"window = 128: must be the whole context of 257 tokens, as no token knows"):
        Gsm(**SMALL, traced=True).check_window(128)
