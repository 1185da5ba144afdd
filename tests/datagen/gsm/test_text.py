"""Sentences: what is written is read again, and what is in no known form is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.gsm.text import TextError, read_context, read_question, write_question, write_sentence
from datagen.gsm.themes import THEMES, Theme
from tests.datagen.gsm.problems import AVERAGE_A, GRAND, TOTAL, WORLD, A, B, C, quantities, statements

SCHOOL = "the number of elementary school in Ruby Bay"


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (Statement(A, Expression(3)), "equals 3."),
        (Statement(A, UNKNOWN), "exists, and its number is greater than 0."),
        (Statement(B, Expression(operands=(A,))), f"equals {SCHOOL}."),
        (Statement(B, Expression(2, (A,))), f"equals 2 plus {SCHOOL}."),
        (Statement(B, Expression(2, (A,), times=True)), f"equals 2 times {SCHOOL}."),
        (
            Statement(C, Expression(operands=(A, TOTAL), minus=True)),
            f"equals the difference between {SCHOOL} and the total number of schools in Ruby Bay.",
        ),
        (
            Statement(C, Expression(4, (A, GRAND), times=True)),
            f"equals 4 times the sum of {SCHOOL} and the total number of teachers from all schools in Ruby Bay.",
        ),
        (
            Statement(C, Expression(operands=(A, AVERAGE_A, A))),
            f"equals the sum of {SCHOOL}, the average number of teachers per elementary school in Ruby Bay,"
            f" and {SCHOOL}.",
        ),
    ],
)
def test_forms(statement: Statement, text: str) -> None:
    written = "".join(write_sentence(WORLD, statement))
    assert written == f" The number of {statement.quantity.thing} in Ruby Bay {text}"


def test_an_unknown_average_does_not_exist_but_is_greater_than_zero() -> None:
    written = "".join(write_sentence(WORLD, Statement(AVERAGE_A, UNKNOWN)))
    assert written == " The average number of teachers per elementary school in Ruby Bay is greater than 0."


@given(st.data(), st.sampled_from(THEMES))
def test_what_is_written_is_read(data: st.DataObject, theme: Theme) -> None:
    said = data.draw(st.lists(statements(theme), min_size=1))
    pieces = [piece for statement in said for piece in write_sentence(theme, statement)]
    assert read_context("".join(pieces).removeprefix(" ")) == said
    assert all(piece[0] == " " or not piece[0].isalnum() for piece in pieces)


@given(st.data(), st.sampled_from(THEMES))
def test_what_is_asked_is_read(data: st.DataObject, theme: Theme) -> None:
    asked = data.draw(quantities(theme))
    assert read_question("".join(write_question(theme, asked))) == asked


def test_names_may_hold_words_of_the_forms() -> None:
    first = Quantity("number", "film about a man and the sum of love in a rainy city", "Festival de Clairmont")
    second = Quantity("number", "school of sculpture, wood and ceramics", "The Old Bay")
    nouns = [f"number of {quantity.thing} in {quantity.place}" for quantity in (first, second)]
    text = f"The {nouns[0]} equals 2 times the sum of the {nouns[1]}, the {nouns[0]}, and the {nouns[1]}."
    assert read_context(text) == [Statement(first, Expression(2, (second, first, second), times=True))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The number of elementary school in Ruby Bay equals 3",
        "The number of elementary school in Ruby Bay is 3.",
        "The number of elementary school equals 3.",
        "The number of elementary school in Ruby Bay equals -3.",
        f"The number of elementary school in Ruby Bay equals the sum of {SCHOOL}.",
        f"The number of elementary school in Ruby Bay equals the difference between {SCHOOL}, {SCHOOL}, and {SCHOOL}.",
        f"The number of elementary school in Ruby Bay equals 2 minus {SCHOOL}.",
        "The average number of teachers in Ruby Bay equals 3.",
        "The total number of windows in Ruby Bay equals 3.",
    ],
)
def test_other_sentences_are_named(text: str) -> None:
    with pytest.raises(TextError):
        read_context(text)


@pytest.mark.parametrize("text", ["", "How many elementary school?", "What is love?", "How many x does Ruby Bay have"])
def test_other_questions_are_named(text: str) -> None:
    with pytest.raises(TextError, match="not a "):
        read_question(text)
