"""The solver on problems whose answers are worked out by hand."""

from __future__ import annotations

import pytest

from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.gsm.solver import NoAnswerError, Solution, solve
from datagen.gsm.text import write_question, write_sentence
from tests.datagen.gsm.problems import AVERAGE_A, GRAND, TOTAL, WORLD, A, B, C, D

AVERAGE_B = B._replace(kind="average")
ELSEWHERE = B._replace(place="Brightford")
# x (7 - x) = 12, for x = 3 and for x = 4
SQUARE = [
    (A, UNKNOWN),
    (ELSEWHERE, Expression(7)),
    (AVERAGE_A, Expression(operands=(ELSEWHERE, A), minus=True)),
    (GRAND, Expression(12)),
]


def solved(asked: Quantity, *statements: tuple[Quantity, Expression]) -> Solution:
    pieces = [piece for statement in statements for piece in write_sentence(WORLD, Statement(*statement))]
    return solve("".join(write_question(WORLD, asked)), "".join(pieces).removeprefix(" "))


def test_number() -> None:
    assert solved(A, (A, Expression(3))) == Solution(answer=3, operations=1)


def test_every_operator() -> None:
    text = [
        (D, Expression(2, (C, B), minus=True, times=True)),  # 2 (11 - 5) = 12, 3 in-edges
        (C, Expression(3, (A, B))),  # 3 + 3 + 5 = 11, 3
        (B, Expression(2, (A,))),  # 5, 2
        (A, Expression(3)),  # 1
    ]
    assert solved(D, *text) == Solution(answer=12, operations=9)
    assert solved(D, *reversed(text)) == Solution(answer=12, operations=9)


def test_what_is_not_needed_is_not_counted() -> None:
    more = [(ELSEWHERE, Expression(operands=(A, C))), (C, Expression(4, (A,)))]
    assert solved(A, (A, Expression(3)), *more) == Solution(answer=3, operations=1)


def test_totals_count_what_the_text_names_in_the_place() -> None:
    text = [(A, Expression(3)), (B, Expression(operands=(A,))), (ELSEWHERE, Expression(50))]
    assert solved(TOTAL, *text) == Solution(answer=6, operations=4)


def test_grand_total_sums_number_times_average() -> None:
    text = [(A, Expression(3)), (AVERAGE_A, Expression(4)), (B, Expression(2)), (AVERAGE_B, Expression(5))]
    assert solved(GRAND, *text) == Solution(answer=3 * 4 + 2 * 5, operations=8)


def test_reverse() -> None:
    text = [(A, UNKNOWN), (B, Expression(3, (A,), times=True)), (TOTAL, Expression(12))]
    assert solved(A, *text) == Solution(answer=3, operations=5)
    assert solved(B, *text) == Solution(answer=9, operations=5)


def test_reverse_with_a_number_that_is_defined_twice() -> None:
    text = [(A, UNKNOWN), (ELSEWHERE, Expression(operands=(TOTAL,))), (ELSEWHERE, Expression(4))]
    assert solved(A, *text) == Solution(answer=4, operations=3)


def test_reverse_with_a_square() -> None:
    text = [(A, UNKNOWN), (AVERAGE_A, Expression(1, (A,))), (GRAND, Expression(12))]
    assert solved(A, *text) == Solution(answer=3, operations=5)  # 3 * 4, not -4 * -3


def test_reverse_with_two_equations() -> None:
    other = C._replace(place="Brightford")
    linear = [(other, Expression(1, (A,))), (other, Expression(4))]
    assert solved(A, *linear, *SQUARE).answer == 3
    assert solved(A, *SQUARE, *linear).answer == 3


# quantities that A does not need, though A tells of some of them
LOST, FOUND = (A._replace(place=place) for place in ("Brightford", "Ashcombe"))
CONTRADICTIONS = {
    "two numbers": [(LOST, Expression(3)), (LOST, Expression(4))],
    "two sums": [(LOST, Expression(1, (A,))), (LOST, Expression(operands=(A, A)))],
    "two definitions, used again": [
        (LOST, Expression(1, (A,))),
        (LOST, Expression(2, (A,))),
        (FOUND, Expression(operands=(LOST,))),
        (FOUND, Expression(9)),
    ],
    "a number and another value": [
        (LOST, Expression(3)),
        (LOST, Expression(operands=(FOUND,))),
        (FOUND, Expression(4)),
    ],
    "a total": [(LOST, Expression(3)), (TOTAL._replace(place=LOST.place), Expression(7))],
    "a cycle": [(LOST, Expression(operands=(FOUND,))), (FOUND, Expression(1, (LOST,)))],
    "nothing behind it": [(LOST, Expression(1, (FOUND,))), (LOST, Expression(6))],
    "an unknown of its own": [(LOST, UNKNOWN), (FOUND, Expression(2, (LOST,))), (FOUND, Expression(1))],
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_what_the_answer_does_not_need_may_contradict_itself(what: str) -> None:
    for text in (CONTRADICTIONS[what], CONTRADICTIONS[what][::-1]):
        assert solved(A, (A, Expression(5)), *text) == Solution(answer=5, operations=1)
        reverse = [(A, UNKNOWN), (B, Expression(1, (A,))), (B, Expression(6))]
        assert solved(A, *text, *reverse) == Solution(answer=5, operations=3)


@pytest.mark.parametrize(
    ("text", "what", "why"),
    [
        ([(A, Expression(operands=(LOST,)))], "two numbers", "states two numbers for the number of .* in Brightford"),
        ([(A, Expression(operands=(LOST,)))], "a number and another value", "contradicts itself"),
        ([(A, Expression(operands=(TOTAL._replace(place=LOST.place),)))], "a total", "contradicts itself"),
        ([(A, UNKNOWN), (B, Expression(operands=(LOST, A))), (B, Expression(9))], "two sums", "two definitions"),
        ([(A, UNKNOWN), (LOST, Expression(9))], "two sums", "two definitions"),
        ([(A, Expression(operands=(LOST, B))), (B, UNKNOWN)], "an unknown of its own", "several unknowns"),
    ],
)
def test_what_the_answer_needs_may_not(text: list[tuple[Quantity, Expression]], what: str, why: str) -> None:
    with pytest.raises(NoAnswerError, match=why):
        solved(A, *text, *CONTRADICTIONS[what])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ([(B, Expression(3))], "no definition"),
        ([(A, Expression(1, (B,))), (B, Expression(operands=(TOTAL,)))], "by itself"),
        ([(A, UNKNOWN)], "does not determine"),
        ([(A, UNKNOWN), (B, Expression(3)), (B, Expression(operands=(C,))), (C, Expression(3))], "does not determine"),
        ([(A, UNKNOWN), (B, Expression(2, (A,), times=True)), (B, Expression(5))], "contradicts"),
        (
            [
                (A, UNKNOWN),
                (B, Expression(1, (A,))),
                (B, Expression(5)),
                (C, Expression(operands=(A,))),
                (C, Expression(5)),
            ],
            "contradicts",
        ),
        ([(A, UNKNOWN), (B, Expression(5, (A,))), (B, Expression(5))], "contradicts"),
        ([(A, Expression(3)), (A, Expression(operands=(B,))), (B, Expression(4))], "contradicts"),
        ([(A, Expression(3)), (A, Expression(4))], "two numbers"),
        ([(A, Expression(operands=(B,))), (A, Expression(operands=(C,))), (B, Expression(4))], "two definitions"),
        (SQUARE, "does not determine"),
    ],
)
def test_no_answer_or_several(text: list[tuple[Quantity, Expression]], why: str) -> None:
    with pytest.raises(NoAnswerError, match=why):
        solved(A, *text)
