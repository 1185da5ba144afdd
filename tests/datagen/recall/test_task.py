"""Recall: all that a row promises is derived again from its tokens, by other means."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datagen import Gsm, Recall, Rows, check_task
from datagen.contract import digest
from datagen.gsm.text import read_context
from datagen.recall.sources import MIN_PASSAGES
from datagen.rows import Ragged
from datagen.schema import fingerprint
from datagen.task import SPLITS, wording_of
from datagen.tokenizer import Tokenizer
from datagen.wording import AnsweredQuestion
from tests.datagen.gsm.problems import train_tokenizer
from tests.datagen.recall.texts import write_documents

seeds = st.integers(0, 2**63 - 1)
GOLDEN = {"problems": "303c7bd9ac6f0273", "bytes": "eef94653d9f700fb"}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    where = tmp_path_factory.mktemp("recall")
    return {"tokenizer": str(train_tokenizer(where)), "text": str(write_documents(where / "text"))}


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    passage = draw(st.integers(24, 60))
    return {
        "passage": passage,
        "cue": draw(st.integers(0, passage - 1)),
        "span": passage + draw(st.integers(7, 40)),  # 7: the bytes of the prompt
        "distances": tuple(sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=3)))),
    }


def as_text(tokens: list[int]) -> str:
    return "".join(map(chr, tokens))


def places(tokens: list[int], passage: list[int]) -> list[int]:
    return [found.start() for found in re.finditer(f"(?={re.escape(as_text(passage))})", as_text(tokens))]


def check(task: Recall, rows: Rows, split: str) -> None:
    (start, length, depth), words = rows.answers(), task.vocabulary
    assert start.shape[1] == 1 and isinstance(rows.tokens, Ragged) == (len(task.distances) > 1)
    assert rows.lengths.max() <= task.row_length and rows.pad is None
    everything = rows.tokens.tolist()
    shown, kinds = list[str](), task.kinds([words[token] for token in row] for row in everything)
    for row, first, many, windows in zip(everything, start[:, 0], length[:, 0], depth[:, 0], strict=True):
        assert windows in task.distances and windows <= task.max_depth
        context, question = row[: windows * task.span], row[windows * task.span :]
        passage = question[-task.passage :]
        assert first + many == len(row) and many == task.passage - task.cue
        assert first == len(row) - task.passage + task.cue
        prompt = question[: -task.passage]
        assert len(question) <= task.span and "".join(words[token] for token in prompt).endswith("Again:")
        found = places(context, passage)
        shown.append("own" if found else "other")
        assert len(found) < 2 and all(at + task.passage <= task.span for at in found)
        assert min(range(first, len(row))) % task.span > 0  # no answer begins a window
        assert (first - 1) // task.span == (len(row) - 1) // task.span  # all of it is said in one
    assert kinds == shown == (["own"] * len(rows) if split == "train" else (["own", "other"] * len(rows))[: len(rows)])
    if split != "train":
        for own, other in zip(everything[::2], everything[1::2], strict=False):
            (at,) = places(own[: task.span], own[-task.passage :])
            after = at + task.passage
            assert len(own) == len(other) and (own[:at], own[after:]) == (other[:at], other[after:])


@given(layouts(), st.booleans(), st.booleans(), st.sampled_from(SPLITS), seeds)
@settings(max_examples=60)
def test_rows_keep_what_they_promise(
    paths: dict[str, str], layout: dict[str, Any], pretrained: bool, own_text: bool, split: str, seed: int
) -> None:
    if pretrained:
        layout["tokenizer"] = paths["tokenizer"]
    if own_text:
        layout["text"] = paths["text"]
    task = Recall(**layout)
    check(task, task.sample(split, seed, 1, 9), split)


@pytest.mark.parametrize("given", [(), ("tokenizer",), ("text",), ("tokenizer", "text")])
def test_every_form_keeps_the_contract(paths: dict[str, str], given: tuple[str, ...]) -> None:
    task = Recall(distances=(1, 2, 4, 8), **{name: paths[name] for name in given})
    check_task(task)
    for split in SPLITS:
        rows = task.sample(split, 0, 0, 400)
        check(task, rows, split)
        shares = Counter(rows.depths.tolist())
        assert set(shares) == {1, 2, 4, 8} and min(shares.values()) > 40  # 100 each on average


def test_passages_stand_anywhere_in_the_first_window() -> None:
    rows = Recall(passage=24, span=40).sample("train", 0, 0, 2000).tokens.tolist()
    times = Counter(places(row[:40], row[-24:])[0] for row in rows)
    assert set(times) == set(range(17)) and min(times.values()) > 60  # 118 each on average


@pytest.mark.parametrize("own_text", [False, True])
def test_passages_begin_with_a_sentence(paths: dict[str, str], own_text: bool) -> None:
    task = Recall(passage=40, text=paths["text"] if own_text else None)
    texts = "\n".join(file.read_text() for file in Path(paths["text"]).rglob("*.[tmT][xdX]*"))
    for row in task.sample("train", 0, 0, 200).tokens.tolist():
        passage = row[-40:]
        if own_text:
            sentence = re.split(r"(?<=[.?!])(?=\s)", bytes(passage).decode(errors="ignore"))[0]
            assert any(
                found.start() == 0 or re.search(r"[.?!]\s*$|\n$", texts[max(0, found.start() - 3) : found.start()])
                for found in re.finditer(re.escape(sentence), texts)
            )
        else:
            assert task.vocabulary[passage[0]] == "The"


def asked(task: Recall, split: str, seed: int, rows: int) -> set[str]:
    return {as_text(row[-task.passage :]) for row in task.sample(split, seed, 0, rows).tokens.tolist()}


def test_splits_of_problems_share_no_passage_even_where_passages_repeat() -> None:
    """Of six words, "The number of adult owl in", there are few: they repeat within a split, not between splits."""
    task = Recall(passage=6, cue=2, span=16)
    train, again = (asked(task, "train", seed, 1500) for seed in (0, 1))
    assert len(train & again) > 50
    validation, test = (asked(task, split, 0, 600) for split in ("validation", "test"))
    assert not validation & (train | again) and not test & (train | again) and not validation & test


def test_long_passages_of_problems_do_not_repeat() -> None:
    passages = [as_text(row[-48:]) for row in Recall().sample("train", 0, 0, 3000).tokens.tolist()]
    assert len(set(passages)) == len(passages)


@pytest.mark.parametrize("pretrained", [False, True])
def test_splits_of_a_text_share_no_text(paths: dict[str, str], pretrained: bool) -> None:
    task = Recall(passage=30, text=paths["text"], tokenizer=paths["tokenizer"] if pretrained else None)
    passages = {split: asked(task, split, 0, 2000) for split in SPLITS}
    for one in SPLITS:
        read = [as_text(row[: task.span]) for row in task.sample(one, 1, 0, 2000).tokens.tolist()[::2]]
        for other in set(SPLITS) - {one}:
            assert not any(passage in "\n".join(read) for passage in passages[other])
    assert len(passages["test"]) > 20


def copied(path: str, where: Path) -> str:
    """The same files elsewhere under names in the same order."""
    for number, file in enumerate(sorted(Path(path).rglob("*"), key=lambda file: file.relative_to(path).as_posix())):
        if file.suffix.lower() in (".txt", ".md"):
            (where / f"{number:03d}.md").write_bytes(file.read_bytes())
    return str(where)


def test_paths_shape_nothing_and_contents_do(paths: dict[str, str], tmp_path: Path) -> None:
    here = Recall(**paths)
    (tmp_path / "text").mkdir()
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_bytes(Path(paths["tokenizer"]).read_bytes())
    there = Recall(tokenizer=str(tokenizer), text=copied(paths["text"], tmp_path / "text"))
    assert here.identity() == there.identity() and fingerprint(here, 0) == fingerprint(there, 0)
    assert digest(here.sample("test", 0, 0, 20)) == digest(there.sample("test", 0, 0, 20))
    assert not any(path in json.dumps(here.identity()) for path in paths.values())
    first = min((tmp_path / "text").iterdir())
    first.write_text(first.read_text() + "One more sentence.\n")
    assert here.identity() != there.identity() and fingerprint(here, 0) != fingerprint(there, 0)


def test_a_stored_config_reads_without_the_files(paths: dict[str, str]) -> None:
    """As a dataset does that was moved to another machine."""
    for names in ((), ("tokenizer",), ("text",), ("tokenizer", "text")):
        task = Recall(distances=(1, 3), **{name: paths[name] for name in names})
        words, rows = task.vocabulary, task.sample("test", 5, 0, 12)
        stored = wording_of("recall", json.loads(json.dumps(task.identity())))
        said = [[words[token] for token in row] for row in rows.tokens.tolist()]
        assert stored.kinds(said) == ["own", "other"] * 6
        decode = (lambda ids: bytes(ids).decode(errors="replace")) if names == ("text",) else (
            Tokenizer.read(paths["tokenizer"]).decode if "tokenizer" in names else None
        )  # fmt: skip
        for row, line, windows in zip(rows.tokens.tolist(), said, rows.depths.tolist(), strict=True):
            start = len(row) - 40
            question = AnsweredQuestion(line, [start], 0, 40, windows, line[start : start + 3])
            problem, right, wrong = stored.question_text(question)
            assert problem.startswith(f"Read {'1 window' if windows == 1 else '3 windows'} ago: ")
            assert "Again: " in problem and right.startswith(wrong.rstrip("\ufffd"))
            if decode:
                assert right == decode(row[start:]).strip() and problem.endswith(decode(row[start - 8 : start]).strip())
            else:
                assert problem.endswith(" ".join(line[start - 8 : start]).replace(" .", ".").replace(" ,", ","))


def test_problems_are_those_of_gsm() -> None:
    """Every whole sentence is one of the forms that GSM-Infinite's reader knows; its tokens are Gsm's."""
    task = Recall(distances=(8,))
    words = task.vocabulary
    assert words[: len(Gsm().vocabulary)] == Gsm().vocabulary and words[len(Gsm().vocabulary) :] == ("Again",)
    for row in task.sample("train", 3, 0, 50).tokens.tolist():
        text = " ".join(words[token] for token in row[: 8 * 64]).replace(" .", ".").replace(" ,", ",")
        whole = text[text.index(". ") + 2 : text.rindex(". ") + 1]
        assert len(read_context(whole)) > 10


PROGRAM = """
import json, sys
from datagen import Recall
from datagen.contract import digest
print(json.dumps([digest(Recall(**fields).sample("test", 3, 5, 9))[:16] for fields in json.loads(sys.argv[1])]))
"""


def test_rows_are_the_same_in_every_version_and_process(tmp_path: Path) -> None:
    """Datasets that stand on someone's disk must stay what their fingerprint says."""
    text = str(write_documents(tmp_path / "text"))
    forms = [{"distances": [1, 2]}, {"text": text}]
    expected = list(GOLDEN.values())
    assert [digest(Recall(**form).sample("test", 3, 5, 9))[:16] for form in forms] == expected
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(forms)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=os.getcwd())
    assert json.loads(found.stdout) == expected


def test_config_split_seed_and_shard_all_change_the_rows() -> None:
    task = Recall()
    samples = [
        *(task.sample(*where, 4) for where in [("train", 0, 0), ("test", 0, 0), ("train", 1, 0), ("train", 0, 1)]),
        *(replace(task, **one).sample("train", 0, 0, 4) for one in ({"cue": 7}, {"span": 65}, {"distances": (2,)})),
    ]
    assert len({digest(rows) for rows in samples}) == len(samples)


def test_windows_that_fit() -> None:
    task = Recall(passage=20, span=96, distances=(1, 2))
    assert task.context_length is None and replace(task, distances=(3,)).context_length == 288
    fitting = []
    for window in range(1, 200):
        try:
            task.check_window(window)
        except ValueError as error:
            assert str(error).startswith(f"window = {window}: must be the task's span of 96 tokens, or a divisor of it")
        else:
            fitting.append(window)
    assert fitting == [24, 32, 48, 96]
    rows = task.sample("train", 0, 0, 50)
    for start, length in zip(*(column[:, 0] for column in rows.answers()[:2]), strict=True):
        assert all(position % window for window in fitting for position in range(start, start + length))


def test_another_depth_is_another_distance() -> None:
    task = Recall(distances=(1, 2)).with_depth(5)
    assert task == Recall(distances=(5,)) and task.max_depth == 5
    assert set(task.sample("train", 0, 0, 5).depths) == {5}


def test_config_comes_back_from_json() -> None:
    task = Recall(passage=30, distances=(1, 2, 8))
    assert Recall(**json.loads(json.dumps(asdict(task)))) == task


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"span": 3}, "span = 3: must be an integer of at least 4, and at most 8192"),
        ({"passage": 65}, "passage = 65: must be an integer of at least 2, and at most 64"),
        ({"cue": 48}, "cue = 48: must be an integer of at least 0, and at most 47"),
        ({"distances": ()}, r"distances = \(\): must be a list of at least one integer"),
        ({"distances": 2}, "distances = 2: must be a list of at least one integer"),
        ({"distances": (2, 1)}, r"distances\[1\] = 1: must be an integer of at least 3"),
        ({"distances": (0,)}, r"distances\[0\] = 0: must be an integer of at least 1"),
        ({"distances": (1, 2000)}, r"distances\[1\] = 2000: must be an integer of at least 2, and at most 1024"),
        ({"distances": (True,)}, r"distances\[0\] = True: must be an integer"),
        ({"tokenizer": 1}, "tokenizer = 1: must be a path as a str, or null"),
        ({"text": 1}, "text = 1: must be a path as a str, or null"),
    ],
)
def test_refuses_bad_configs(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Recall(**config)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            {"passage": 63},
            "passage = 63: must be at most 62, so that it and the 2 tokens of 'Again:' fit into span = 64",
        ),
        ({"passage": 2, "cue": 0, "distances": (16,)}, "passage = 2: none of 1000 passages stood only once in its row"),
        (
            {"text": "/no/where"},
            "text must be a file or a folder of .txt and .md files, but '/no/where' does not exist",
        ),
        ({"tokenizer": "/no/where"}, "'/no/where' does not exist"),
    ],
)
def test_refuses_what_cannot_be_made(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Recall(**config).sample("train", 0, 0, 1)


@pytest.mark.parametrize("arguments", [("dev", 0, 0, 1), ("train", -1, 0, 1), ("train", 0, -1, 1), ("train", 0, 0, 0)])
def test_refuses_bad_splits_seeds_and_rows(arguments: tuple[str, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"(split|seed|shard|rows) .*must be"):
        Recall().sample(*arguments)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("One sentence.", "the part of it that is kept for train has 15 tokens"),
        ("The same again. " * 20_000, "and 3 passages of 48 tokens that are there once; must have at least 128 tokens"),
    ],
)
def test_refuses_a_text_that_is_too_short_or_repeats_itself(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(ValueError, match=why) as error:
        Recall(text=str(tmp_path)).sample("train", 0, 0, 1)
    assert f"{MIN_PASSAGES} passages: give more text" in str(error.value)
