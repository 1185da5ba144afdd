"""An independent solver: it sees only the text and shares no code with the generator of the dependency graph.

A problem has at most one unknown, x. Every quantity is a polynomial in x; a quantity that has both a definition and a
stated value gives an equation for x. A total sums up the numbers that the text mentions.

The official generator states some distractors twice, with different values. What a text says of quantities that the
answer does not need may be anything: contradictory, circular, or without a value.
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

    The answer needs the quantity asked for and all that it depends on. If x is among them, it also needs every quantity
    that gives an equation for x, and all that this depends on.

    Raises TextError if the text cannot be parsed, and NoAnswerError if it has no answer or several, if it contradicts
    itself about a quantity that the answer needs, or if a polynomial exceeds MAX_DEGREE or MAX_COEFFICIENT.
    """
    asked = read_question(question)
    text = _Text(asked, read_context(context))
    value, needed = text.value(asked), text.needed([asked])
    unusable: NoAnswerError | None = None
    if len(value) > 1:
        for quantity in text.equations:
            try:
                if len(text.value(quantity)) > 1:
                    needed |= text.needed([quantity])
            except NoAnswerError as error:
                unusable = error
    solutions: set[int] | None = None
    for quantity in needed & text.equations.keys():
        for number in text.equations[quantity]:
            roots = _positive_roots(_add([text.value(quantity), (-number,)]))
            if roots is not None:
                solutions = roots if solutions is None else solutions & roots
    if solutions == set():
        raise NoAnswerError(f"the text contradicts itself, so {question!r} has no answer")
    operations = sum(map(text.edges, needed))
    if len(value) <= 1:
        return Solution(sum(value), operations)
    if solutions is None or len(solutions) > 1:
        raise unusable or NoAnswerError(f"the text does not determine the answer to {question!r}")
    (x,) = solutions
    return Solution(_at(value, x), operations)


class _Text:
    """The statements of a text, as definitions and equations, and the unknown that the asked quantity depends on."""

    def __init__(self, asked: Quantity, statements: Iterable[Statement]) -> None:
        self.equations: dict[Quantity, set[int]] = {}
        self._definitions: dict[Quantity, list[Expression]] = defaultdict(list)
        self._values: dict[Quantity, Polynomial] = {}
        self._waiting: set[Quantity] = set()
        numbers: dict[Quantity, set[int]] = defaultdict(set)
        mentioned = {asked: None}
        for quantity, expression in statements:
            mentioned |= dict.fromkeys((quantity, *expression.operands))
            if not expression.operands and expression.constant is not None:
                numbers[quantity].add(expression.constant)
            elif expression not in self._definitions[quantity]:
                self._definitions[quantity].append(expression)
        # A stated number is an equation if the quantity is defined otherwise (totals always are), else its definition.
        for quantity, given in numbers.items():
            if quantity in self._definitions or not quantity.thing:
                self.equations[quantity] = given
            else:
                self._definitions[quantity] = list(map(Expression, given))
        totals = {quantity.place for quantity in mentioned if not quantity.thing}
        # place -> the number quantities there that the text mentions, in order
        self._numbers: dict[str, list[Quantity]] = defaultdict(list)
        for quantity in mentioned:
            if quantity.kind == "number":
                self._numbers[_place(quantity, totals)].append(quantity)
        unknown = [each for each in self.needed([asked]) if each.thing and self.definition(each) == UNKNOWN]
        if len(unknown) > 1:
            raise NoAnswerError(f"the answer depends on several unknowns: {', '.join(sorted(map(str, unknown)))}")
        self._x = unknown[0] if unknown else None

    def definition(self, quantity: Quantity) -> Expression:
        """The definition of a quantity other than a total."""
        found = self._definitions.get(quantity, [])
        if not found:
            raise NoAnswerError(f"the text has no definition of {quantity}")
        if len(found) > 1:
            what = "states two numbers for" if all(not each.operands for each in found) else "has two definitions of"
            raise NoAnswerError(f"the text {what} {quantity}")
        return found[0]

    def products(self, total: Quantity) -> list[tuple[Quantity, ...]]:
        """The products that a total or a grand total sums up."""
        numbers = self._numbers[total.place]
        if total.kind == "total":
            return [(number,) for number in numbers]
        return [(number, number._replace(kind="average")) for number in numbers]

    def operands(self, quantity: Quantity) -> tuple[Quantity, ...]:
        """The quantities that its value is computed from."""
        if quantity.thing:
            return self.definition(quantity).operands
        return tuple(factor for term in self.products(quantity) for factor in term)

    def edges(self, quantity: Quantity) -> int:
        """In-edges: operands and constant."""
        return self.definition(quantity).edges if quantity.thing else len(self.operands(quantity))

    def needed(self, roots: Iterable[Quantity]) -> set[Quantity]:
        """The roots and all quantities that they depend on."""
        seen, waiting = set(roots), list(roots)
        while waiting:
            sources = set(self.operands(waiting.pop())) - seen
            waiting += sources
            seen |= sources
        return seen

    def value(self, quantity: Quantity) -> Polynomial:
        if quantity not in self._values:
            if quantity in self._waiting:
                raise NoAnswerError(f"{quantity} is defined by itself (the definitions form a cycle)")
            self._waiting.add(quantity)
            try:
                self._values[quantity] = self._evaluate(quantity)
            finally:
                self._waiting.remove(quantity)
        return self._values[quantity]

    def _evaluate(self, quantity: Quantity) -> Polynomial:
        if not quantity.thing:
            return _add([_product([self.value(factor) for factor in term]) for term in self.products(quantity)])
        constant, operands, minus, times = expression = self.definition(quantity)
        if expression == UNKNOWN:
            if quantity != self._x:
                raise NoAnswerError(f"the text does not determine {quantity}")
            return (0, 1)
        values = [self.value(operand) for operand in operands]
        if minus:
            values[1] = _product([values[1], (-1,)])
        inner = _add(values)
        if constant is None:
            return inner
        return _product([(constant,), inner]) if times else _add([(constant,), inner])


def _place(number: Quantity, totals: set[str]) -> str:
    """The place of a number. Where names contain " in ", it is the longest place that has a total."""
    words = f"{number.thing} in {number.place}".split(" in ")
    places = (" in ".join(words[i:]) for i in range(1, len(words)))
    return next((place for place in places if place in totals), number.place)


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
