"""The core of a problem: the dependency graph of the quantities that its answer needs.

Every quantity equals a number, another quantity, a sum, a difference, a multiple or, in a grand total, a sum of
products. Numbers and constants lie in 1..MAX_NUMBER and all values in 1..MAX_VALUE: none is negative, zero or huge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datagen.gsm.draws import Draws
from datagen.gsm.quantity import UNKNOWN, Expression, Kind, Quantity, Statement
from datagen.gsm.sketch import Sketch
from datagen.gsm.themes import Theme

MAX_NUMBER = 4  # as in the official problems
MAX_VALUE = 200

Linear = tuple[int, int]  # (a, b) is a * x + b


@dataclass(frozen=True)
class Core:
    """The quantities that the answer needs, and no others.

    definitions  in an order in which each reads only earlier ones; those of the totals name what they sum up.
    asked        the last quantity; in a reverse problem a leaf, and the value of the last quantity is given instead.
    """

    theme: Theme
    definitions: dict[Quantity, Expression]
    values: dict[Quantity, int]
    asked: Quantity

    @property
    def last(self) -> Quantity:
        return next(reversed(self.definitions))

    @property
    def reverse(self) -> bool:
        return self.definitions[self.asked] == UNKNOWN

    @property
    def answer(self) -> int:
        return self.values[self.asked]

    @property
    def statements(self) -> list[Statement]:
        """What the text must say: a total is not defined in words, but may be given."""
        defined = [
            Statement(quantity, expression) for quantity, expression in self.definitions.items() if quantity.thing
        ]
        return [*defined, Statement(self.last, Expression(self.values[self.last]))] if self.reverse else defined


def sample_core(draws: Draws, theme: Theme, operations: int, hard: bool, reverse: bool) -> Core:
    """A core with exactly `operations` in-edges, constants included; averages and grand totals only where `hard`."""
    while True:
        sketch = Sketch(draws, theme, operations, hard)
        definitions: dict[Quantity, Expression] = {}
        values: dict[Quantity, int] = {}
        for quantity, (operands, constant) in reversed(sketch.reads.items()):
            definitions[quantity], values[quantity] = express(draws, quantity.kind, operands, constant, values)
        asked = _leaf_to_ask(draws, definitions) if reverse else quantity
        # Both are rare: a value too high, and a last quantity that tells no leaf.
        if max(values.values()) <= MAX_VALUE and asked is not None:
            if reverse:
                definitions[asked] = UNKNOWN
            return Core(theme, definitions, values, asked)


def linear_forms(definitions: Mapping[Quantity, Expression], x: Quantity | None) -> dict[Quantity, Linear] | None:
    """Every quantity as a function of x; None where one is not linear."""
    forms: dict[Quantity, Linear] = {}
    for quantity, (constant, operands, minus, times) in definitions.items():
        if quantity == x:
            forms[quantity] = (1, 0)
            continue
        terms = [forms[operand] for operand in operands]
        if quantity.kind == "grand":
            pairs = list(zip(terms[::2], terms[1::2], strict=True))
            if any(a and c for (a, _), (c, _) in pairs):
                return None
            terms = [(a * d + b * c, b * d) for (a, b), (c, d) in pairs]
        if minus:
            terms[1] = (-terms[1][0], -terms[1][1])
        a, b = sum(a for a, _ in terms), sum(b for _, b in terms)
        if constant is not None:
            a, b = (constant * a, constant * b) if times else (a, constant + b)
        forms[quantity] = (a, b)
    return forms


def express(
    draws: Draws, kind: Kind, operands: Sequence[Quantity], constant: bool, values: Mapping[Quantity, int]
) -> tuple[Expression, int]:
    """Draws the operators and the numbers; returns the expression and its value, which may be above MAX_VALUE."""
    terms = [values[operand] for operand in operands]
    if kind == "total":
        return Expression(operands=tuple(operands)), sum(terms)
    if kind == "grand":
        return Expression(operands=tuple(operands)), sum(a * b for a, b in zip(terms[::2], terms[1::2], strict=True))
    if not terms:
        number = draws.between(1, MAX_NUMBER)
        return Expression(number), number
    # Equal operands would give a difference of zero.
    minus = len(terms) == 2 and terms[0] != terms[1] and draws.below(3) > 0
    if minus and terms[0] < terms[1]:
        operands, terms = operands[::-1], terms[::-1]
    value = terms[0] - terms[1] if minus else sum(terms)
    if not constant:
        return Expression(None, tuple(operands), minus), value
    times = draws.below(2) == 0
    number = draws.between(2 if times else 1, MAX_NUMBER)
    return Expression(number, tuple(operands), minus, times), number * value if times else number + value


def _leaf_to_ask(draws: Draws, definitions: Mapping[Quantity, Expression]) -> Quantity | None:
    """A leaf for which the last quantity's value is a linear equation with one solution; None if there is none."""
    for leaf in draws.shuffled([quantity for quantity, expression in definitions.items() if not expression.operands]):
        forms = linear_forms(definitions, leaf)
        if forms is not None and next(reversed(forms.values()))[0] != 0:
            return leaf
    return None
