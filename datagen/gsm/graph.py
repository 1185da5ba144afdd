"""The core of a problem: the dependency graph of the quantities that the answer depends on.

A quantity is defined as a number, another quantity, a sum, a difference, a multiple or, for a grand total, a sum of
products. Numbers and constants are in 1..`numbers`, all values in 1..MAX_VALUE; so no value is negative or zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datagen.gsm.quantity import UNKNOWN, Expression, Kind, Quantity, Statement
from datagen.gsm.themes import Theme
from datagen.gsm.topology import Topology
from datagen.rng import Rng

MAX_NUMBER = 4  # as in the official problems
MAX_VALUE = 200

Linear = tuple[int, int]  # (a, b) means a * x + b


@dataclass(frozen=True)
class Core:
    """The quantities that the answer depends on, and no others.

    definitions  in topological order: an expression contains only earlier quantities. A total has one as well, although
                 the text does not state it; its operands are the quantities that it sums up.
    values       of all quantities.
    asked        the quantity that the question asks for. In a forward problem it is the last one; in a reverse problem
                 it is a leaf, and the text states the value of the last quantity.
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
        """The statements of the text: definitions, except of totals, and the value given in a reverse problem."""
        defined = [
            Statement(quantity, expression) for quantity, expression in self.definitions.items() if quantity.thing
        ]
        return [*defined, Statement(self.last, Expression(self.values[self.last]))] if self.reverse else defined


def sample_core(rng: Rng, theme: Theme, operations: int, hard: bool, reverse: bool, numbers: int = MAX_NUMBER) -> Core:
    """A core with exactly `operations` in-edges, constants included. Only a hard one has averages and grand totals."""
    while True:
        topology = Topology(rng, theme, operations, hard)
        definitions: dict[Quantity, Expression] = {}
        values: dict[Quantity, int] = {}
        for quantity, (operands, constant) in reversed(topology.inputs.items()):
            definitions[quantity], values[quantity] = express(rng, quantity.kind, operands, constant, values, numbers)
        asked = _leaf_to_ask(rng, definitions) if reverse else quantity
        # Draw again in two rare cases: a value is too high, or the last quantity determines no leaf.
        if max(values.values()) <= MAX_VALUE and asked is not None:
            if reverse:
                definitions[asked] = UNKNOWN
            return Core(theme, definitions, values, asked)


def linear_forms(definitions: Mapping[Quantity, Expression], x: Quantity | None) -> dict[Quantity, Linear] | None:
    """Every quantity as a linear function of x; None if one of them is not linear."""
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
    rng: Rng,
    kind: Kind,
    operands: Sequence[Quantity],
    constant: bool,
    values: Mapping[Quantity, int],
    numbers: int = MAX_NUMBER,
) -> tuple[Expression, int]:
    """Draw the operators and the constant; returns the expression and its value, which may exceed MAX_VALUE.

    constant: whether operands get one too (a total has none, an expression without operands always has one); it is at
    most `numbers`.
    """
    terms = [values[operand] for operand in operands]
    if kind == "total":
        return Expression(operands=tuple(operands)), sum(terms)
    if kind == "grand":
        return Expression(operands=tuple(operands)), sum(a * b for a, b in zip(terms[::2], terms[1::2], strict=True))
    if not terms:
        number = rng.between(1, numbers)
        return Expression(number), number
    # The difference of equal operands would be zero.
    minus = len(terms) == 2 and terms[0] != terms[1] and rng.below(3) > 0
    if minus and terms[0] < terms[1]:
        operands, terms = operands[::-1], terms[::-1]
    value = terms[0] - terms[1] if minus else sum(terms)
    if not constant:
        return Expression(None, tuple(operands), minus), value
    times = rng.below(2) == 0
    number = rng.between(2 if times else 1, numbers)
    return Expression(number, tuple(operands), minus, times), number * value if times else number + value


def _leaf_to_ask(rng: Rng, definitions: Mapping[Quantity, Expression]) -> Quantity | None:
    """A random leaf that the value of the last quantity determines by a linear equation; None if there is none."""
    for leaf in rng.shuffled([quantity for quantity, expression in definitions.items() if not expression.operands]):
        forms = linear_forms(definitions, leaf)
        if forms is not None and next(reversed(forms.values()))[0] != 0:
            return leaf
    return None
