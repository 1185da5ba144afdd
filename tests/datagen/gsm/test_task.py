"""Gsm: every row is solved from its text, has the length and the layout that the config says, and is repeatable."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Gsm
from datagen.gsm.encoder import encoder_of
from datagen.gsm.graph import MAX_NUMBER
from datagen.gsm.solver import Solution, solve
from datagen.gsm.task import MAX_TOKENS, Sample
from datagen.gsm.text import read_context, read_question
from datagen.gsm.themes import THEMES
from datagen.rows import Ragged
from datagen.task import SPLITS
from datagen.vocabulary import Vocabulary
from tests.datagen.gsm.problems import train_tokenizer

SHORT = (350, 450)
LONGEST = encoder_of(None).longest_sentence("official", MAX_NUMBER)
WINDOWS = (8, 24, 512, 1000, 2000)

seeds = st.integers(0, 2**63 - 1)


@st.composite
def tasks(draw: st.DrawFn) -> Gsm:
    fewest = draw(st.integers(1, 8))
    most = draw(st.integers(fewest, 8))
    shortest = draw(st.integers(400, 1500))
    longest = draw(st.integers(shortest + LONGEST, shortest + 400))
    return Gsm(operations=(fewest, most), tokens=(shortest, longest), hard=draw(st.booleans()))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def take(task: Gsm, count: int, split: str = "test", seed: int = 0, shard: int = 0) -> list[Sample]:
    return list(islice(task.samples(split, seed, shard), count))


def check(task: Gsm, samples: list[Sample], vocabulary: Vocabulary) -> None:
    for problem, tokens, answer_length, _ in samples:
        text = f"{problem.question} {problem.context} Answer: {problem.answer}"
        assert vocabulary.decode(tokens) == text
        assert vocabulary.encode(text) == tokens
        assert vocabulary.decode(tokens[-answer_length:]).strip() == str(problem.answer)
        statements = read_context(problem.context)
        said = {statement.quantity for statement in statements}
        assert all(o in said for statement in statements for o in statement.expression.operands if o.thing)
        assert solve(problem.question, problem.context) == Solution(problem.answer, problem.operations)
        assert problem.solution.endswith(f" Answer: {problem.answer}.")

        assert task.tokens[0] <= len(tokens) <= task.tokens[1]
        answers = range(len(tokens) - answer_length, len(tokens))
        assert all(position % window for position in answers for window in WINDOWS)


@pytest.mark.parametrize("hard", [False, True])
def test_thousands_of_rows_are_solved(hard: bool) -> None:
    task = Gsm(tokens=SHORT, hard=hard)
    samples = take(task, 3000)
    check(task, samples, encoder_of(None).vocabulary)
    made = Counter((problem.theme, problem.mode, problem.operations) for problem, *_ in samples)
    assert len(made) == len(THEMES) * 2 * 8
    assert min(made.values()) > 30  # 62.5 each on average


@pytest.mark.parametrize("hard", [False, True])
def test_rows_of_full_length_are_solved(hard: bool) -> None:
    task = Gsm(hard=hard)
    samples = take(task, 300)
    check(task, samples, encoder_of(None).vocabulary)
    lengths = np.array([len(sample.tokens) for sample in samples])
    # Uniform: the mean's standard deviation is 1300 / 12**0.5 / 300**0.5 = 22.
    assert abs(lengths.mean() - 2650) < 100
    assert lengths.min() < 2050
    assert lengths.max() > 3200


@given(tasks(), st.sampled_from(SPLITS), seeds)
def test_every_config(task: Gsm, split: str, seed: int) -> None:
    samples = take(task, 3, split, seed)
    check(task, samples, encoder_of(None).vocabulary)
    for problem, *_ in samples:
        assert task.operations[0] <= problem.operations <= task.operations[1]
        assert task.hard or "average" not in problem.question + problem.context


@given(st.integers(350, MAX_TOKENS - LONGEST), st.booleans(), seeds)
def test_the_length_is_hit_within_a_sentence(tokens: int, hard: bool, seed: int) -> None:
    task = Gsm(tokens=(tokens, tokens + LONGEST), hard=hard)
    for problem, row, *_ in take(task, 2, seed=seed):
        # The target is `tokens` or one more; the last sentence may overshoot it.
        sentences = problem.context.removesuffix(".").split(". ")
        longest = max(len(encoder_of(None).vocabulary.encode(sentence)) + 1 for sentence in sentences)
        assert tokens <= len(row) <= tokens + 1 + longest


def test_names_do_not_run_out() -> None:
    task = Gsm(operations=(16, 16), tokens=(MAX_TOKENS - LONGEST, MAX_TOKENS))
    check(task, take(task, 20), encoder_of(None).vocabulary)


def test_pretrained_rows(tokenizer: str) -> None:
    for hard in (False, True):
        task = Gsm(tokens=(2000, 3300), hard=hard, tokenizer=tokenizer)
        samples = take(task, 12)
        check(task, samples, encoder_of(tokenizer).vocabulary)
        assert {answer_length for _, _, answer_length, _ in samples} >= {2, 3}  # a space and one token a digit


def test_where_the_tokenizer_lies_shapes_nothing(tokenizer: str, tmp_path: Path) -> None:
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(Path(tokenizer).read_bytes())
    here, there = (take(Gsm(tokenizer=path), 3) for path in (tokenizer, str(copy)))
    assert here == there


def test_a_tokenizer_that_needs_more_room(tokenizer: str) -> None:
    task = Gsm(tokens=SHORT, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"tokens\[0\] must be at least"):
        next(task.samples("train", 0, 0))


def test_problems_have_no_duplicates_within_or_between_splits() -> None:
    task = Gsm(operations=(1, 1), tokens=(200, 300))
    texts = [sample.problem.context for split in SPLITS for sample in take(task, 500, split)]
    assert len(set(texts)) == len(texts)


def test_the_answer_does_not_show_in_the_length() -> None:
    samples = take(Gsm(tokens=SHORT), 3000)
    lengths = np.array([len(sample.tokens) for sample in samples], dtype=float)
    answers = np.array([sample.problem.answer for sample in samples], dtype=float)
    assert abs(np.corrcoef(lengths, answers)[0, 1]) < 5 / 3000**0.5


def test_the_core_may_stand_anywhere() -> None:
    """Where the sentence of the asked quantity stands, of 0..1, in problems that say it once."""
    places = []
    for problem, *_ in take(Gsm(tokens=SHORT), 2000):
        subjects = [statement.quantity for statement in read_context(problem.context)]
        if subjects.count(asked := read_question(problem.question)) == 1:
            places.append((subjects.index(asked) + 0.5) / len(subjects))
    assert abs(np.mean(places) - 0.5) < 5 * (1 / 12 / len(places)) ** 0.5


def test_the_same_in_every_version() -> None:
    """Datasets that stand on someone's disk must stay what their fingerprint says."""
    digests = {}
    for hard in (False, True):
        samples = take(Gsm(hard=hard), 9, "test", seed=3, shard=5)
        text = json.dumps([[asdict(problem), tokens] for problem, tokens, *_ in samples], ensure_ascii=True)
        digests[hard] = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert digests == {False: "abcf360d459e75b9", True: "578f6f7ab81cb433"}


def test_config_split_seed_and_shard_all_change_the_rows() -> None:
    task = Gsm(tokens=SHORT)
    others = [Gsm(tokens=(350, 451)), Gsm(tokens=SHORT, hard=True), Gsm(operations=(1, 7), tokens=SHORT)]
    samples = [
        *(take(task, 1, split, seed, shard) for split, seed, shard in [("train", 0, 0), ("test", 0, 0)]),
        *(take(task, 1, split, seed, shard) for split, seed, shard in [("train", 1, 0), ("train", 0, 1)]),
        *(take(other, 1, "train") for other in others),
    ]
    assert len({sample.problem.context for (sample,) in samples}) == len(samples)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"operations": (0, 3)}, r"operations\[0\] = 0: must be an integer of at least 1, and at most 3"),
        ({"operations": (4, 3)}, r"operations\[0\] = 4: must be an integer of at least 1, and at most 3"),
        ({"operations": (1, 17)}, r"operations\[1\] = 17: must be an integer of at least 1, and at most 16"),
        ({"operations": (1, 2.0)}, r"operations\[1\] = 2.0: must be an integer"),
        ({"operations": 3}, "operations must be a pair of ints, got 3"),
        ({"tokens": (2000, 9000)}, r"tokens\[1\] = 9000: must be an integer of at least 1, and at most 8192"),
        ({"tokens": (2000, 2010)}, r"tokens\[1\] must be at least tokens\[0\] \+ \d+, the longest sentence"),
        ({"tokens": (100, 2000)}, r"tokens\[0\] must be at least \d+ to hold a problem of 8 operations, got 100"),
        ({"hard": 1}, "hard = 1: must be true or false"),
        ({"tokenizer": 1}, "tokenizer must be a path as a str, or None, got 1"),
    ],
)
def test_refuses_bad_configs(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Gsm(**config)


@pytest.mark.parametrize(("split", "seed", "shard"), [("dev", 0, 0), ("train", -1, 0), ("train", 0, -1)])
def test_refuses_bad_splits_and_seeds(split: str, seed: int, shard: int) -> None:
    with pytest.raises(ValueError, match=r"(split|seed|shard) .*must be"):
        next(Gsm().samples(split, seed, shard))


def test_config_comes_back_from_json() -> None:
    task = Gsm(operations=(2, 6), tokens=(1000, 1200), hard=True)
    assert Gsm(**json.loads(json.dumps(asdict(task)))) == task


def test_sample_gives_the_samples_as_rows() -> None:
    task = Gsm(tokens=SHORT)
    samples, rows = take(task, 20, "train", 3, 4), task.sample("train", 3, 4, 20)
    assert isinstance(rows.tokens, Ragged)
    assert rows.tokens.values.dtype == np.uint16
    assert rows.tokens.tolist() == [sample.tokens for sample in samples]
    for row, (start, length, depth) in zip(samples, np.hstack(rows.answers()), strict=True):
        assert start + length == len(row.tokens)
        assert length == row.answer_length
        assert depth == row.problem.operations
    assert max(rows.lengths) <= task.row_length


def test_fewer_rows_are_a_prefix() -> None:
    task = Gsm(tokens=SHORT)
    few, more = task.sample("test", 1, 2, 5), task.sample("test", 1, 2, 50)
    assert few.tokens.tolist() == more.tokens.tolist()[:5]
    with pytest.raises(ValueError, match=r"rows = .*must be"):
        task.sample("test", 1, 2, 0)
