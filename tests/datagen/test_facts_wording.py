"""How rows of Facts read in a report: the sentences that the answer needs, where a wrong one is from, and the kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datagen import Facts
from datagen.facts.reader import Question, Statement, read
from datagen.task import task_identity, wording_of
from datagen.vocabulary import split
from datagen.wording import AnsweredQuestion, QuestionText
from tests.datagen.gsm.problems import train_tokenizer

TEXT = (
    "The home of Alan Ashby is in Old Iskham. - - It rained. Alan Ashby learns from Bren Holtby. The train to Far "
    "Fennmere was late. Low Oakby now lives in Far Prinmere. Upper Ruskton is where Bren Holtby works. - Alan Ashby "
    "now lives in Far Fennmere. - Where does the mentor of Alan Ashby work? Upper Ruskton. Where does Alan Ashby "
    "live? Far Fennmere. Who is the mentor of Alan Ashby? Bren Holtby"
)
TASK = Facts(facts=(2, 4, 16), questions=1, context_length=300, span=300)


def test_a_document_says_what_a_person_would_read() -> None:
    document = read(TEXT)
    assert document.statements == [
        Statement("home", "Alan Ashby", "Old Iskham", 0),
        Statement("mentor", "Alan Ashby", "Bren Holtby", 2),
        Statement("home", "Low Oakby", "Far Prinmere", 4),
        Statement("workplace", "Bren Holtby", "Upper Ruskton", 5),
        Statement("home", "Alan Ashby", "Far Fennmere", 6),
    ]
    assert document.questions[0] == Question(
        "Alan Ashby", ("mentor", "workplace"), "Where does the mentor of Alan Ashby work?", "Upper Ruskton"
    )
    assert [document.kind(question) for question in document.questions] == ["hop", "change", "recall"]
    assert [each.object for each in document.needed(document.questions[0])] == ["Bren Holtby", "Upper Ruskton"]
    with pytest.raises(ValueError, match="not a question about a fact: 'Why did it rain'"):
        read("It rained. Why did it rain? Nobody")


@pytest.mark.parametrize(
    ("number", "given", "shown"),
    [
        (
            0,
            "Bren Holtby",
            QuestionText(
                "Alan Ashby learns from Bren Holtby. Upper Ruskton is where Bren Holtby works. "
                "Where does the mentor of Alan Ashby work?",
                "Upper Ruskton",
                "Bren Holtby (of another fact)",
            ),
        ),
        (
            1,
            "Old Iskham",
            QuestionText(
                "Alan Ashby now lives in Far Fennmere. Where does Alan Ashby live?",
                "Far Fennmere",
                "Old Iskham (before it changed)",
            ),
        ),
        (
            2,
            "Far Iskham",
            QuestionText(
                "Alan Ashby learns from Bren Holtby. Who is the mentor of Alan Ashby?",
                "Bren Holtby",
                "Far Iskham (of no fact)",
            ),
        ),
    ],
)
def test_a_wrong_answer_shows_where_it_is_from(number: int, given: str, shown: QuestionText) -> None:
    words = split(TEXT)
    starts = [i + 1 for i, word in enumerate(words) if word == "?"]
    asked = AnsweredQuestion(words, starts, number, 2, 1, given.split())
    assert wording_of("facts", task_identity(TASK)["config"]).question_text(asked) == shown


@pytest.mark.parametrize("pretrained", [False, True])
def test_rows_are_told_apart_by_kind_and_number_of_facts(pretrained: bool, tmp_path: Path) -> None:
    task = TASK
    if pretrained:
        task = replace(TASK, context_length=2400, span=2400, tokenizer=str(train_tokenizer(tmp_path)))
    found = kinds_of(task, 60)
    assert set(found) == {f"{kind} at {n} facts" for kind in ("recall", "hop", "change") for n in ("02", "04", "16")}
    hops = replace(task, facts=(2, 4), question_kinds=("hop",))
    assert set(kinds_of(hops, 20)) == {"hop at 2 facts", "hop at 4 facts"}
    assert kinds_of(replace(hops, facts=(4,)), 5) == []


def kinds_of(task: Facts, rows: int) -> list[str]:
    """As a report finds them, which knows only the dataset."""
    tokens = task.sample("test", 0, 0, rows).tokens.tolist()
    wording = wording_of("facts", task_identity(task)["config"])
    return wording.kinds([task.vocabulary[token] for token in row] for row in tokens)
