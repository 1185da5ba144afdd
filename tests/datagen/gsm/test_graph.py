"""The dependency graph: exact operations, sound values, distractors that change nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.gsm.distractors import Distractors
from datagen.gsm.graph import MAX_NUMBER, MAX_VALUE, Core, sample_core
from datagen.gsm.problem import write_solution
from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.gsm.solver import Solution, solve
from datagen.gsm.text import write_question, write_sentence
from datagen.gsm.themes import THEMES
from tests.datagen.gsm.problems import rng


@dataclass
class Made:
    core: Core
    distractors: list[Statement]
    values: dict[Quantity, int]  # of the core and of the distractors, as the generator has them


@st.composite
def made(draw: st.DrawFn, most_distractors: int = 60) -> Made:
    source, hard = rng(draw(st.integers(0, 2**32))), draw(st.booleans())
    core = sample_core(source, draw(st.sampled_from(THEMES)), draw(st.integers(1, 16)), hard, draw(st.booleans()))
    distractors, drawn = Distractors(source, core, hard), []
    for _ in range(draw(st.integers(0, most_distractors))):
        drawn.append(distractors.draw())
        distractors.add(*drawn[-1])
    values = {**core.values, **{statement.quantity: value for statement, value in drawn}}
    return Made(core, [statement for statement, _ in drawn], values)


def told(core: Core, statements: list[Statement]) -> Solution:
    text = "".join("".join(write_sentence(core.theme, statement)) for statement in statements)
    return solve("".join(write_question(core.theme, core.asked)), text.removeprefix(" "))


def value(expression: Expression, operands: list[int]) -> int:
    """What the expression comes to, its operands being these numbers."""
    inner = operands[0] - operands[1] if expression.minus else sum(operands)
    if expression.constant is None:
        return inner
    return expression.constant * inner if expression.times else expression.constant + inner


@given(made(), st.data())
def test_answer_and_operations_without_the_distractors_or_with_some(problem: Made, data: st.DataObject) -> None:
    core = problem.core
    expected = Solution(core.answer, sum(expression.edges for expression in core.definitions.values()))
    kept = [statement for statement in problem.distractors if data.draw(st.booleans())]
    for distractors in ([], kept, problem.distractors):
        assert told(core, data.draw(st.permutations([*core.statements, *distractors]))) == expected


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_operations_are_those_asked_for(hard: bool, reverse: bool) -> None:
    source = rng(1)
    for operations in range(1, 17):
        for _ in range(50):
            core = sample_core(source, source.choice(THEMES), operations, hard, reverse)
            assert told(core, core.statements).operations == operations
            assert core.reverse == reverse
            assert hard or {quantity.kind for quantity in core.definitions} <= {"number", "total"}


@given(made())
def test_the_core_reads_the_core_and_a_distractor_only_what_stands(problem: Made) -> None:
    core, seen = problem.core, set[Quantity]()
    for quantity, expression in core.definitions.items():
        assert set(expression.operands) <= seen
        seen.add(quantity)
    needed = {operand for expression in core.definitions.values() for operand in expression.operands}
    assert seen == needed | {core.last}
    assert all(len(set(expression.operands)) == len(expression.operands) for expression in core.definitions.values())

    for quantity, expression in problem.distractors:
        assert quantity not in seen
        assert quantity.thing
        assert all(operand in seen or not operand.thing for operand in expression.operands)
        assert len(set(expression.operands)) == len(expression.operands)
        seen.add(quantity)


@given(made())
def test_nothing_is_negative_zero_or_huge(problem: Made) -> None:
    assert all(1 <= number <= MAX_VALUE for number in problem.values.values())
    told_of_last = {problem.core.last: problem.values[problem.core.last]}
    for quantity, expression in [*problem.core.definitions.items(), *problem.distractors]:
        if expression.constant is not None:
            assert 1 <= expression.constant <= MAX_NUMBER
        if not expression.operands and expression != UNKNOWN:
            assert problem.values[quantity] == expression.constant
    assert {q: e.constant for q, e in problem.core.statements if (q, e) not in problem.core.definitions.items()} == (
        told_of_last if problem.core.reverse else {}
    )


def test_values_come_near_the_limit_and_stay_below() -> None:
    source, of_cores, of_distractors = rng(3), [0], [0]
    for _ in range(400):
        core = sample_core(source, THEMES[0], 16, hard=True, reverse=False)
        of_cores += core.values.values()
    for _ in range(10):
        distractors = Distractors(source, core, hard=True)
        for _ in range(300):
            statement, number = distractors.draw()
            distractors.add(statement, number)
            of_distractors.append(number)
    assert MAX_VALUE / 2 < max(of_cores) <= MAX_VALUE
    assert MAX_VALUE / 2 < max(of_distractors) <= MAX_VALUE


@given(made())
def test_values_are_those_of_the_text(problem: Made) -> None:
    """Each quantity of the text, worked out from its sentence and the values of those it names."""
    statements = [*problem.core.statements, *problem.distractors]
    numbers = {quantity for quantity, _ in statements if quantity.kind == "number"}
    values = dict(problem.values)
    for quantity in {operand for _, expression in statements for operand in expression.operands if not operand.thing}:
        there = [number for number in numbers if number.place == quantity.place]
        factors = [values[n._replace(kind="average")] if quantity.kind == "grand" else 1 for n in there]
        values[quantity] = sum(values[n] * factor for n, factor in zip(there, factors, strict=True))
    for quantity, expression in statements:
        if expression != UNKNOWN:
            assert value(expression, [values[operand] for operand in expression.operands]) == values[quantity]


@given(made())
def test_averages_where_a_total_is_read_are_of_things_that_are_counted(problem: Made) -> None:
    statements = [*problem.core.statements, *problem.distractors]
    totals = {o.place for _, expression in statements for o in expression.operands if not o.thing}
    totals |= {quantity.place for quantity in problem.core.definitions if not quantity.thing}
    said = {quantity for quantity, _ in statements}
    for quantity in said:
        if quantity.kind == "average" and quantity.place in totals:
            assert quantity._replace(kind="number") in said


def test_all_kinds_of_problem_are_made() -> None:
    source = rng(2)
    cores = [sample_core(source, THEMES[0], 8, True, reverse=bool(i % 2)) for i in range(2000)]
    asked = Counter((core.reverse, core.asked.kind) for core in cores)
    assert min(asked[False, kind] for kind in ("number", "average", "total", "grand")) > 100
    assert min(asked[True, kind] for kind in ("number", "average")) > 200
    shapes = {
        (len(expression.operands), expression.constant is None, expression.minus, expression.times)
        for core in cores
        for quantity, expression in core.definitions.items()
        if quantity.thing and expression != UNKNOWN
    }
    operators = [(False, False), (False, True), (True, False), (True, True)]  # minus, times
    assert shapes >= {(0, False, False, False), (1, True, False, False), (1, False, False, True)}
    assert shapes >= {(2, no_constant, *both) for no_constant in (False,) for both in operators}
    assert shapes >= {(count, True, False, False) for count in (2, 3, 4)} | {(2, True, True, False)}


def test_solution_text() -> None:
    a, b, c = (Quantity("number", f"adult {name}", "Pine Ridge") for name in ("owl", "fox", "bear"))
    total = Quantity("total", "", "Pine Ridge")
    definitions = {
        a: UNKNOWN,
        b: Expression(2, (a,)),
        c: Expression(3, (b, a), times=True),
        total: Expression(operands=(a, b, c)),
    }
    core = Core(THEMES[0], definitions, {a: 4, b: 6, c: 30, total: 40}, asked=a)
    assert write_solution(core) == (
        "Let x be the number of adult owl in Pine Ridge. "
        "The number of adult fox in Pine Ridge is 2 + x = x + 2. "
        "The number of adult bear in Pine Ridge is 3 * ((x + 2) + x) = 6 * x + 6. "
        "The total number of adult animals in Pine Ridge is x + (x + 2) + (6 * x + 6) = 8 * x + 8. "
        "It is told to be 40, so x = 4. Answer: 4."
    )
