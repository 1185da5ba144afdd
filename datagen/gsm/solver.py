"""An independent solver: it sees only the text and shares no code with the generator of the dependency graph.

A problem has at most one unknown, x. Every quantity is a polynomial in x; a quantity that has both a definition and a
stated value gives an equation for x. A total sums up the numbers that the text mentions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.gsm.text import read_context, read_question

Polynomial = tuple[int, ...]  # coefficients of 1, x, x**2, ...; the last one is not zero
MAX_DEGREE = 16  # a chain of grand totals could double the degree with each sentence
MAX_COEFFICIENT = 10**12  # small enough to find all divisors by trial division


class NoAnswerError(ValueError):
    """The text does not determine the answer."""


@dataclass(frozen=True)
class Solution:
    answer: int
    operations: int  # in-edges of all quantities that the answer depends on


def solve(question: str, context: str) -> Solution:
    """Solve a problem from its text.

    Raises TextError if the text cannot be parsed, and NoAnswerError if it has no answer or several, or if a polynomial
    exceeds MAX_DEGREE or MAX_COEFFICIENT.
    """
    asked, text = read_question(question), _Text(read_context(context))
    value = text.value(asked)
    solutions: set[int] | None = None
    for quantity, numbers in text.equations.items():
        for number in numbers:
            roots = _positive_roots(_add([text.value(quantity), (-number,)]))
            if roots is not None:
                solutions = roots if solutions is None else solutions & roots
    if solutions == set():
        raise NoAnswerError(f"the text contradicts itself, so {question!r} has no answer")
    if len(value) <= 1:
        return Solution(sum(value), text.operations([asked]))
    if solutions is None or len(solutions) > 1:
        raise NoAnswerError(f"the text does not determine the answer to {question!r}")
    (x,) = solutions
    return Solution(_at(value, x), text.operations(text.equations))


class _Text:
    """The statements of a text, as definitions and equations."""

    def __init__(self, statements: Iterable[Statement]) -> None:
        self.definitions: dict[Quantity, Expression] = {}
        self.equations: dict[Quantity, list[int]] = {}
        self._values: dict[Quantity, Polynomial] = {}
        self._waiting: set[Quantity] = set()
        numbers: dict[Quantity, list[int]] = defaultdict(list)
        for quantity, expression in statements:
            if not expression.operands and expression.constant is not None:
                numbers[quantity].append(expression.constant)
            elif self.definitions.setdefault(quantity, expression) != expression:
                raise NoAnswerError(f"the text has two definitions of {quantity}")
        # A stated number is an equation if the quantity is defined otherwise (totals always are), else its definition.
        for quantity, given in numbers.items():
            if quantity in self.definitions or not quantity.thing:
                self.equations[quantity] = given
            elif len(given) == 1:
                self.definitions[quantity] = Expression(given[0])
            else:
                raise NoAnswerError(f"the text states two numbers for {quantity}")
        # place -> the number quantities there that the text mentions, in order
        self._numbers: dict[str, dict[Quantity, None]] = defaultdict(dict)
        for quantity, expression in self.definitions.items():
            for named in (quantity, *expression.operands):
                if named.kind == "number":
                    self._numbers[named.place][named] = None

    def products(self, total: Quantity) -> list[tuple[Quantity, ...]]:
        """The products that a total or a grand total sums up."""
        numbers = self._numbers[total.place]
        if total.kind == "total":
            return [(number,) for number in numbers]
        return [(number, number._replace(kind="average")) for number in numbers]

    def value(self, quantity: Quantity) -> Polynomial:
        if quantity not in self._values:
            if quantity in self._waiting:
                raise NoAnswerError(f"{quantity} is defined by itself (the definitions form a cycle)")
            self._waiting.add(quantity)
            self._values[quantity] = self._evaluate(quantity)
        return self._values[quantity]

    def _evaluate(self, quantity: Quantity) -> Polynomial:
        if not quantity.thing:
            return _add([_product([self.value(factor) for factor in term]) for term in self.products(quantity)])
        if quantity not in self.definitions:
            raise NoAnswerError(f"the text has no definition of {quantity}")
        constant, operands, minus, times = expression = self.definitions[quantity]
        if expression == UNKNOWN:
            return (0, 1)
        values = [self.value(operand) for operand in operands]
        if minus:
            values[1] = _product([values[1], (-1,)])
        inner = _add(values)
        if constant is None:
            return inner
        return _product([(constant,), inner]) if times else _add([(constant,), inner])

    def operations(self, roots: Iterable[Quantity]) -> int:
        """In-edges of the roots and of all quantities that they depend on, each quantity counted once."""
        count, seen, waiting = 0, set(roots), list(roots)
        while waiting:
            quantity = waiting.pop()
            if quantity.thing:
                expression = self.definitions[quantity]
                sources, edges = expression.operands, expression.edges
            else:
                sources = tuple(factor for term in self.products(quantity) for factor in term)
                edges = len(sources)
            count += edges
            waiting += set(sources) - seen
            seen |= set(sources)
        return count


def _add(polynomials: list[Polynomial]) -> Polynomial:
    total = [0] * max(map(len, polynomials), default=0)
    for polynomial in polynomials:
        for power, coefficient in enumerate(polynomial):
            total[power] += coefficient
    return _trimmed(total)


def _product(polynomials: list[Polynomial]) -> Polynomial:
    product: Polynomial = (1,)
    for polynomial in polynomials:
        terms = [0] * (len(product) + len(polynomial))
        for i, a in enumerate(product):
            for j, b in enumerate(polynomial):
                terms[i + j] += a * b
        product = _trimmed(terms)
    return product


def _trimmed(coefficients: list[int]) -> Polynomial:
    while coefficients and coefficients[-1] == 0:
        coefficients.pop()
    largest = max(map(abs, coefficients), default=0)
    if len(coefficients) > MAX_DEGREE + 1 or largest > MAX_COEFFICIENT:
        has = f"degree {len(coefficients) - 1} and coefficients up to {largest:.0e}"
        raise NoAnswerError(
            f"a quantity is a polynomial with {has}: must be at most {MAX_DEGREE} and {MAX_COEFFICIENT:.0e}"
        )
    return tuple(coefficients)


def _at(polynomial: Polynomial, x: int) -> int:
    return sum(coefficient * x**power for power, coefficient in enumerate(polynomial))


def _positive_roots(polynomial: Polynomial) -> set[int] | None:
    """The positive integers where the polynomial is zero; None if it is zero everywhere."""
    if not polynomial:
        return None
    # An integer root divides the lowest nonzero coefficient.
    lowest = next(abs(coefficient) for coefficient in polynomial if coefficient)
    divisors = {d for x in range(1, math.isqrt(lowest) + 1) if lowest % x == 0 for d in (x, lowest // x)}
    return {x for x in divisors if _at(polynomial, x) == 0}
