"""Facts: every answer follows from the text, the layout is what the config says, and splits share no names."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from datagen import Facts, Rows, check_task
from datagen.contract import digest
from datagen.facts.encoder import encoder_of
from datagen.facts.names import FIRST_NAMES, LAST_NAMES, QUALIFIERS, TOWNS
from datagen.facts.reader import Document, read
from datagen.facts.story import KINDS
from datagen.task import SPLITS
from tests.datagen.gsm.problems import train_tokenizer

PLAIN = Facts(
    facts=(4,), questions=2, question_kinds=("recall",), context_length=24, span=12, relations=1, forms=1, name_words=1
)
SMALL = Facts(facts=(4, 7), questions=2, context_length=120, span=40)
TOO_RARE = 1e-4  # a p-value below this is a fault: the seeds are fixed, so a test passes always or never

seeds = st.integers(0, 2**63 - 1)


@st.composite
def tasks(draw: st.DrawFn) -> Facts:
    kinds = tuple(draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True)))
    facts = tuple(sorted(draw(st.sets(st.integers(2, 24), min_size=1, max_size=3))))
    span = draw(st.integers(20, 100))
    most = 1.5 * facts[-1] * 11  # tokens of the statements
    return Facts(
        facts=facts,
        questions=draw(st.integers(1, facts[0] // 2)),
        question_kinds=kinds,
        context_length=span * (int(most / span) + draw(st.integers(1, 3))),
        span=span,
        relations=draw(st.integers(2 if "hop" in kinds else 1, 6)),
        forms=draw(st.integers(1, 3)),
        name_words=draw(st.sampled_from([1, 2])),
    )


def documents(task: Facts, rows: Rows) -> list[Document]:
    """The rows as what their text alone says."""
    vocabulary = task.vocabulary
    return [read(task.text(vocabulary[token] for token in row)) for row in rows.tokens.tolist()]


def check_rows(task: Facts, rows: Rows) -> None:
    """Everything that the docstring of Facts says of a row."""
    vocabulary = encoder_of(task.tokenizer).vocabulary
    columns = zip(*(column.tolist() for column in rows.columns().values()), documents(task, rows), strict=True)
    for tokens, starts, lengths, depths, document in columns:
        text = vocabulary.decode(tokens)
        assert vocabulary.encode(text) == tokens and len(tokens) <= task.row_length
        assert vocabulary.decode(tokens[: task.context_length]).rstrip(" -").endswith(".")
        assert vocabulary.decode(tokens[task.context_length :]).lstrip().startswith(("Where", "Who"))

        assert len(document.facts) in task.facts
        assert len(document.questions) == len(set(map(str, document.questions))) == task.questions
        (kind,) = {document.kind(question) for question in document.questions}
        assert kind in task.question_kinds
        changed = {key for key, times in Counter(each[:2] for each in document.statements).items() if times == 2}
        assert len(changed) == (len(document.facts) // 2 if kind == "change" else 0)
        assert len(document.statements) == len(document.facts) + len(changed)
        ends = [i for i, character in enumerate(text) if character == "."]
        for question, start, length, depth in zip(document.questions, starts, lengths, depths, strict=True):
            needed = document.needed(question)
            assert needed[-1].object == question.answer == vocabulary.decode(tokens[start : start + length]).strip()
            assert tokens[start - 1] == vocabulary.encode("?")[0] and start > task.context_length
            last = [len(vocabulary.encode(text[: ends[each.sentence] + 1])) - 1 for each in needed]
            assert depth == task.max_depth - min(last) // task.span
            earlier = [each for each in document.statements if each[:2] == needed[-1][:2] and each != needed[-1]]
            assert all(each.object != question.answer and each.sentence < needed[-1].sentence for each in earlier)
            assert len({question.subject, *(each.object for each in needed)}) == len(needed) + 1


@given(tasks(), st.sampled_from(SPLITS), seeds, st.integers(0, 1000), st.integers(1, 4))
def test_rows_are_what_they_say(task: Facts, split: str, seed: int, shard: int, n: int) -> None:
    rows = task.sample(split, seed, shard, n)
    assert len(rows) == n
    check_rows(task, rows)


@pytest.mark.parametrize("task", [Facts(), SMALL, PLAIN], ids=["default", "small", "plain"])
def test_hundreds_of_rows(task: Facts) -> None:
    check_task(task)
    check_rows(task, task.sample("test", 0, 0, 300))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(train_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_pretrained_rows(tokenizer: str, tmp_path: Path) -> None:
    """Of a tokenizer of 600 tokens, which splits most words into several."""
    task = Facts(facts=(4, 6), questions=2, context_length=600, span=200, tokenizer=tokenizer)
    check_task(task)
    rows = task.sample("train", 0, 0, 15)
    check_rows(task, rows)
    assert len(set(rows.lengths.tolist())) > 5 and rows.answer_length.values.min() > 2
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(Path(tokenizer).read_bytes())
    moved = Facts(facts=(4, 6), questions=2, context_length=600, span=200, tokenizer=str(copy))
    assert digest(moved.sample("train", 0, 0, 15)) == digest(rows)


def test_a_tokenizer_that_needs_more_room_or_joins_pieces(tokenizer: str, tmp_path: Path) -> None:
    short = Facts(facts=(4,), questions=2, context_length=120, span=40, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"context_length = 120: must be at least \d+, for 6 statements of up to \d+"):
        short.sample("train", 0, 0, 1)
    joins = Facts(tokenizer=str(train_tokenizer(tmp_path, across_words=True)))
    with pytest.raises(ValueError, match="must encode a text as it encodes its pieces"):
        joins.sample("train", 0, 0, 1)


# checked by hand: the asked facts, the later of two statements, the two hops, and where their sentences end
GOLDEN = {
    "recall": (
        "The train to Long Prinhaven was late. At noon Joren Inkerwick closed the window and read a book. The "
        "evening was cold and clear. Coren Caldridge lives in Old Korbvale. Merus Langman is the doctor of Ilan "
        "Dunnby. Kala Rudby learns from Goris Inkerlow. Nobody spoke for a while. Ilan Dunnby works in Lower "
        "Prinham. The train to Little Jarrmere was late. It rained. Nobody spoke for a while. Where does Coren "
        "Caldridge live? Old Korbvale. Who is the doctor of Ilan Dunnby? Merus Langman"
        " [2, 1]"
    ),
    "hop": (
        "Black Clavhaven is where Loro Pemman lives. Joria Holtman slept badly. Long Melkton is where Dara Pemby "
        "works. At noon Meris Holtmond closed the window and read a book. A long letter came from the coast. The "
        "mentor of Coran Rudlow is Dara Pemby. The bells were silent. A dog followed Helis Langwick through the "
        "rain. The evening was cold and clear. Loro Pemman is the mayor of West Jarrvale. Where does the mayor of "
        "West Jarrvale live? Black Clavhaven. Where does the mentor of Coran Rudlow work? Long Melkton"
        " [2, 2]"
    ),
    "change": (
        "A map of East Prinhaven hung on the wall. The birthplace of Ilus Grimmond is Upper Ruskhaven. Pelin "
        "Rudridge is the mentor of Ilia Ashson. Goran Oakell is the mayor of Old Heskmere. Jorin Brackson is the "
        "doctor of Ilia Ashson. Ilia Ashson is now treated by Falia Bracklow. The bells were silent. In the "
        "morning the market opened late again. Kalo Nettman is now the mayor of Old Heskmere. - Who is the mayor "
        "of Old Heskmere? Kalo Nettman. Who is the doctor of Ilia Ashson? Falia Bracklow"
        " [1, 1]"
    ),
}


def test_rows_as_they_are_written() -> None:
    """The text and the depths; a span has 40 tokens."""
    for kind in KINDS:
        task = Facts(facts=(4,), questions=2, question_kinds=(kind,), context_length=80, span=40)
        rows = task.sample("test", 1, 0, 1)
        text = task.text(task.vocabulary[token] for token in rows.tokens.tolist()[0])
        assert f"{text} {rows.answer_depth.tolist()[0]}" == GOLDEN[kind]


# The same rows everywhere


def test_sample_is_the_same_in_every_version() -> None:
    """Datasets that stand on someone's disk must stay what their fingerprint says."""
    assert {name: digest(task.sample("test", 3, 5, 20))[:16] for name, task in FIXED.items()} == DIGESTS


def test_sample_is_the_same_in_another_process() -> None:
    """Whose strings have other hashes."""
    code = "import datagen, datagen.contract; print(datagen.contract.digest(datagen.Facts().sample('test', 3, 5, 20)))"
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout[:16] == DIGESTS["default"]


FIXED = {"default": Facts(), "plain": PLAIN, "small": SMALL}
DIGESTS = {"default": "fdad0c4fa6a6f1b3", "plain": "b3615bcd90699c10", "small": "7482393bbc0c33f3"}


def test_the_vocabulary_is_the_same_in_every_version() -> None:
    words = Facts().vocabulary
    assert words[:4] == (",", ".", "?", ":") and len(set(words)) == len(words) == 480
    assert hashlib.sha256("\n".join(words).encode()).hexdigest()[:16] == "d53aaf8c882d8056"


@given(tasks(), st.sampled_from(SPLITS), seeds, st.integers(1, 5), st.integers(0, 5))
def test_fewer_rows_are_a_prefix(task: Facts, split: str, seed: int, few: int, more: int) -> None:
    assert digest(task.sample(split, seed, 0, few)) == digest(task.sample(split, seed, 0, few + more)[:few])


def test_config_split_seed_and_shard_all_change_the_rows() -> None:
    others = [
        SMALL.sample("train", 1, 0, 1),
        SMALL.sample("train", 0, 1, 1),
        SMALL.sample("test", 0, 0, 1),
        SMALL.sample("validation", 0, 0, 1),
        SMALL.sample("train", 0, 0, 1),
        Facts(facts=(4, 7), questions=2, context_length=120, span=60).sample("train", 0, 0, 1),
        Facts(facts=(4, 7), questions=1, context_length=120, span=40).sample("train", 0, 0, 1),
    ]
    assert len({tuple(rows.tokens.tolist()[0]) for rows in others}) == len(others)


# Splits


def test_names_of_two_words_belong_to_one_split() -> None:
    """Not only in facts: no name of a test row stands anywhere in a train row."""
    seen = {split: Counter(names_in(Facts(), split, 400)) for split in SPLITS}
    assert len(set().union(*seen.values())) == sum(map(len, seen.values()))
    assert len(seen["train"]) > 5000


@pytest.mark.parametrize("relations", [1, 6])
def test_pairs_of_names_of_one_word_belong_to_one_split(relations: int) -> None:
    """In either order, in any relation; free draws of so many pairs would share thousands."""
    task = Facts(facts=(16,), question_kinds=("recall", "change"), relations=relations, name_words=1)
    pairs = {split: set(pairs_in(task, split, 250)) for split in SPLITS}
    assert all(len(found) > 500 for found in pairs.values())
    assert all(pairs[one].isdisjoint(pairs[other]) for one, other in combinations(SPLITS, 2))
    assert all({*FIRST_NAMES, *TOWNS} == set(names_in(task, split, 250)) for split in SPLITS)


def names_in(task: Facts, split: str, rows: int) -> Iterator[str]:
    """Wherever they stand, distractors and questions included."""
    first = {*FIRST_NAMES, *(TOWNS if task.name_words == 1 else QUALIFIERS)}
    for row in task.sample(split, 0, 0, rows).tokens.tolist():
        words = [task.vocabulary[token] for token in row]
        yield from (" ".join(words[i : i + task.name_words]) for i, word in enumerate(words) if word in first)


def pairs_in(task: Facts, split: str, rows: int) -> Iterator[frozenset[str]]:
    for document in documents(task, task.sample(split, 0, 0, rows)):
        yield from (frozenset((said.subject, said.object)) for said in document.statements)


def test_all_words_of_names_differ_from_each_other_and_from_the_rest() -> None:
    words = [*FIRST_NAMES, *LAST_NAMES, *QUALIFIERS, *TOWNS]
    assert len(set(words)) == len(words) == 3 * 128 + 16
    text = " ".join(sentence for document in documents(Facts(), Facts().sample("test", 0, 0, 50))
                    for sentence in document.sentences)  # fmt: skip
    assert {word for word in text.split() if word[0].isupper()} - set(words) == {
        "A", "At", "In", "It", "Nobody", "The",
    }  # fmt: skip


# Distributions


def test_facts_kinds_and_distances_are_drawn_evenly() -> None:
    task = Facts(facts=(4, 8), questions=2, context_length=300, span=60)
    rows = task.sample("train", 0, 0, 1500)
    drawn = Counter((each.kind(each.questions[0]), len(each.facts)) for each in documents(task, rows))
    assert len(drawn) == 6 and stats.chisquare(list(drawn.values())).pvalue > TOO_RARE
    recall = Facts(facts=(4, 8), questions=2, question_kinds=("recall",), context_length=300, span=60)
    depths = np.bincount(recall.sample("train", 0, 0, 2000).answer_depth.values, minlength=6)
    # A sentence counts where it ends, so slightly fewer in the farthest span.
    assert depths[0] == 0 and depths[1:].max() < 1.3 * depths[1:].min()


@pytest.mark.parametrize("words", [1, 2])
def test_no_answer_is_guessed(words: int) -> None:
    """By always naming the commonest one."""
    task = Facts(facts=(8,), name_words=words)  # type: ignore[arg-type]
    for split in SPLITS:
        answers = Counter(
            question.answer for each in documents(task, task.sample(split, 0, 0, 400)) for question in each.questions
        )
        assert max(answers.values()) / answers.total() < (0.025 if words == 1 else 0.01)


def test_the_asked_fact_is_neither_the_first_nor_the_last_told() -> None:
    """Its rank among the facts of the document is uniform."""
    task = Facts(facts=(6,), questions=1, question_kinds=("recall",), context_length=120, span=40)
    ranks = Counter()  # type: ignore[var-annotated]
    for document in documents(task, task.sample("train", 0, 0, 2000)):
        (fact,) = document.needed(document.questions[0])
        ranks[document.statements.index(fact)] += 1
    assert len(ranks) == 6 and stats.chisquare(list(ranks.values())).pvalue > TOO_RARE


# Configs


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"facts": ()}, r"facts = \(\): must be a tuple of at least one value"),
        ({"facts": 8}, r"facts = 8: must be a tuple of at least one value"),
        ({"facts": (8, 129)}, "facts = 129: must be an integer of at least 1, and at most 128"),
        ({"facts": (8, 8)}, r"facts = \(8, 8\): must be ascending, none twice"),
        ({"facts": (True,)}, "facts = True: must be an integer"),
        ({"questions": 5}, "questions = 5: must be at most 4, as 2 of the 8 facts go with each question"),
        ({"questions": 9, "question_kinds": ("recall",)}, "questions = 9: must be at most 8, as 1 of the 8 facts"),
        ({"questions": 0}, "questions = 0: must be an integer of at least 1"),
        ({"question_kinds": ()}, r"question_kinds = \(\): must be a tuple of at least one"),
        ({"question_kinds": ("recal",)}, "question_kinds = 'recal': must be one of recall, hop, change"),
        ({"question_kinds": ("hop", "hop")}, "question_kinds = .*: must be different from each other"),
        (
            {"context_length": 500, "span": 100},
            "context_length = 500: must be at least 528, for 48 statements of up to",
        ),
        ({"context_length": 2**16 + 1}, "context_length = 65537: must be an integer of at least 1, and at most 65536"),
        ({"span": 100}, "span = 100: must be a divisor of context_length = 1024"),
        ({"relations": 1}, "relations = 1: must be an integer of at least 2, and at most 6"),
        ({"relations": 7}, "relations = 7: must be an integer of at least 2, and at most 6"),
        ({"forms": 4}, "forms = 4: must be an integer of at least 1, and at most 3"),
        ({"name_words": 3}, "name_words = 3: must be 1 or 2"),
        ({"name_words": True}, "name_words = True: must be 1 or 2"),
        ({"tokenizer": 1}, "tokenizer = 1: must be a path as a str, or None"),
    ],
)
def test_refuses_bad_configs(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Facts(**config)


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
        PLAIN.sample(*arguments)


def test_the_largest_tasks() -> None:
    """All 128 names of one word are asked for in a single relation; a long document of many facts."""
    every = Facts(
        facts=(128,),
        questions=128,
        question_kinds=("recall",),
        context_length=640,
        span=640,
        relations=1,
        forms=1,
        name_words=1,
    )
    rows = every.sample("test", 0, 0, 2)
    check_rows(every, rows)
    assert {question.subject for question in documents(every, rows)[0].questions} == set(FIRST_NAMES)
    check_rows(long := Facts(facts=(128,), context_length=2**16, span=2**10), long.sample("train", 0, 0, 2))


def test_windows() -> None:
    task = Facts()
    for window in (128, 256, 512, 1024):
        task.check_window(window)
    with pytest.raises(ValueError, match=r"window = 100: must be a divisor of the task's context of 1024 tokens"):
        task.check_window(100)
    with pytest.raises(ValueError, match=r"window = 32: must be at least 63, so that the query"):
        task.check_window(32)
    rows = task.sample("train", 0, 0, 200)
    assert (rows.answer_start.values > 1024).all() and (rows.lengths <= 1024 + 128).all()


def test_depth_is_the_number_of_spans() -> None:
    task = Facts(facts=(4,), questions=2, context_length=120, span=40)
    assert task.max_depth == 3
    deeper = task.with_depth(5)
    assert deeper == Facts(facts=(4,), questions=2, context_length=200, span=40) and deeper.max_depth == 5
    with pytest.raises(ValueError, match="context_length = 40: must be at least 66"):
        task.with_depth(1)


def test_config_comes_back_from_json() -> None:
    assert Facts(**json.loads(json.dumps(asdict(SMALL)))) == SMALL
