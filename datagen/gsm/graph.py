"""The dependency graph of a problem: a core that the answer needs, and distractors that only ever read what stands.

Every quantity equals a number, another quantity, a sum, a difference, a multiple or, in a grand total, a sum of
products. Numbers and constants lie in 1..MAX_NUMBER and all values in 1..MAX_VALUE: none is negative, zero or huge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datagen.gsm.draws import Draws
from datagen.gsm.quantity import UNKNOWN, Expression, Kind, Quantity, Statement
from datagen.gsm.themes import Theme

MAX_NUMBER = 4  # as in the official problems
MAX_VALUE = 200

# In-edges that a quantity costs at least, with those of what it must read.
LEAST: dict[Kind, int] = {"number": 1, "average": 1, "total": 2, "grand": 4}
EASY_KINDS: Sequence[Kind] = ("number",) * 5 + ("total",)
HARD_KINDS: Sequence[Kind] = ("number",) * 4 + ("average",) * 4 + ("total", "grand")
EASY_LAST: Sequence[Kind] = ("number", "total")
HARD_LAST: Sequence[Kind] = ("number", "average", "total", "grand")
OPERANDS = (1, 1, 1, 2, 2, 2, 3, 4)  # of a core quantity

# (operands, whether with a constant) of a distractor, in about the official shares.
SHAPES = ((0, True),) * 4 + ((1, False),) * 7 + ((2, False),) * 9 + ((1, True),) * 3 + ((2, True), (3, False))

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
        sketch = _Sketch(draws, theme, operations, hard)
        definitions: dict[Quantity, Expression] = {}
        values: dict[Quantity, int] = {}
        for quantity, (operands, constant) in reversed(sketch.reads.items()):
            definitions[quantity], values[quantity] = _express(draws, quantity.kind, operands, constant, values)
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


class Distractors:
    """Draws further quantities, which read the core and one another, and which nothing in the core reads."""

    def __init__(self, draws: Draws, core: Core, hard: bool) -> None:
        self._draws, self._theme = draws, core.theme
        self._kinds: Sequence[Kind] = ("number", "number", "average") if hard else ("number",)
        self._values = dict(core.values)
        # Places whose total is read: what lives there is settled.
        self._totalled = {quantity.place for quantity in core.values if not quantity.thing}
        self._grand = {quantity.place for quantity in core.values if quantity.kind == "grand"}
        for place in dict.fromkeys(quantity.place for quantity in core.values):
            if place not in self._totalled and draws.below(2):
                self._settle(place)
        self._core = list(self._values)
        self._all = list(self._values)

    def draw(self) -> tuple[Statement, int]:
        """A statement about a new quantity, and its value; it counts only once it is added."""
        quantity = self._new()
        draws, value = self._draws, MAX_VALUE + 1
        while value > MAX_VALUE:
            wanted, constant = draws.choice(SHAPES)
            operands: list[Quantity] = []
            while len(operands) < min(wanted, len(self._all)):
                operand = draws.choice(self._core if draws.below(2) else self._all)
                if operand not in operands:
                    operands.append(operand)
            expression, value = _express(draws, quantity.kind, operands, constant, self._values)
        return Statement(quantity, expression), value

    def add(self, statement: Statement, value: int) -> None:
        self._values[statement.quantity] = value
        self._all.append(statement.quantity)

    def _new(self) -> Quantity:
        """A quantity that does not stand yet and that changes no total."""
        draws = self._draws
        while True:
            quantity = Quantity(
                draws.choice(self._kinds), draws.choice(self._theme.things), draws.choice(self._theme.places)
            )
            if quantity in self._values:
                continue
            if quantity.place not in self._totalled:
                return quantity
            # An average fits where its thing is already counted.
            if (
                quantity.kind == "average"
                and quantity.place not in self._grand
                and quantity._replace(kind="number") in self._values
            ):
                return quantity

    def _settle(self, place: str) -> None:
        """Lets the distractors read the total of a place of the core, if all that has an average there has a number."""
        here = [quantity for quantity in self._values if quantity.place == place]
        numbers = {quantity.thing: self._values[quantity] for quantity in here if quantity.kind == "number"}
        total = sum(numbers.values())
        if total <= MAX_VALUE and all(quantity.thing in numbers for quantity in here):
            self._values[Quantity("total", "", place)] = total
            self._totalled.add(place)


class _Sketch:
    """Which quantities the last one needs, and which of them each one reads: all but the operators and the numbers.

    It is drawn from the last quantity backwards. A quantity is first needed and later defined, and reads only what is
    not yet defined, so there is no circle. A needed quantity has reserved its least cost, so every operation is spent.
    """

    def __init__(self, draws: Draws, theme: Theme, operations: int, hard: bool) -> None:
        self._draws, self._theme = draws, theme
        self._kinds = HARD_KINDS if hard else EASY_KINDS
        self._fresh = draws.shuffled(theme.places)
        self._shared: list[str] = []  # places whose total is not read
        self._used: set[Quantity] = set()
        self._needed: list[Quantity] = []
        self._spare = operations  # in-edges that are neither spent nor reserved
        self.reads: dict[Quantity, tuple[list[Quantity], bool]] = {}  # operands, whether with a constant
        self._need(self._affordable(HARD_LAST if hard else EASY_LAST))
        while self._needed:
            quantity = self._needed.pop(draws.below(len(self._needed)))
            self._spare += LEAST[quantity.kind]
            self.reads[quantity] = self._reads(quantity) if quantity.thing else (self._terms(quantity), False)

    def _terms(self, total: Quantity) -> list[Quantity]:
        """All the numbers in a place, each followed by its average for a grand total."""
        # A term's in-edges are as many as the quantities that it needs.
        most = min(max(OPERANDS), self._spare // LEAST[total.kind])
        operands = []
        for _ in range(self._draws.between(1, most)):
            number = self._need("number", total.place)
            operands.append(number)
            if total.kind == "grand":
                operands.append(self._need("average", total.place, number.thing))
        self._spare -= len(operands)
        return operands

    def _reads(self, quantity: Quantity) -> tuple[list[Quantity], bool]:
        draws, operands = self._draws, list[Quantity]()
        # The last one needed takes all that is left. Where none is left, only what is needed already can be read.
        must_read, may_read = not self._needed and self._spare > 1, self._needed or self._spare > 1
        if not must_read and (not may_read or draws.below(3) == 0):
            self._spare -= 1
            return operands, True
        constant = self._spare > (1 if self._needed else 2) and draws.below(3) == 0
        self._spare -= constant
        for _ in range(draws.choice(OPERANDS)):
            shared = [other for other in self._needed if other not in operands]
            if not self._spare or (self._spare == 1 and not shared):
                break
            self._spare -= 1
            if shared and (not self._spare or draws.below(3) == 0):
                operands.append(draws.choice(shared))
            else:
                operands.append(self._need(self._affordable(self._kinds)))
        return operands, constant

    def _affordable(self, kinds: Sequence[Kind]) -> Kind:
        return self._draws.choice([kind for kind in kinds if LEAST[kind] <= self._spare])

    def _need(self, kind: Kind, place: str | None = None, thing: str | None = None) -> Quantity:
        """A new quantity; its place and its thing are free where none is given."""
        draws = self._draws
        if kind in ("total", "grand"):
            # A place of its own: nothing else of the core may count there.
            quantity = Quantity(kind, "", self._fresh.pop())
        else:
            place = place or self._some_place()
            quantity = Quantity(kind, thing or draws.choice(self._theme.things), place)
            while quantity in self._used:
                quantity = Quantity(kind, draws.choice(self._theme.things), place)
        self._used.add(quantity)
        self._needed.append(quantity)
        self._spare -= LEAST[kind]
        return quantity

    def _some_place(self) -> str:
        if not self._shared or self._draws.below(2):
            self._shared.append(self._fresh.pop())
        return self._draws.choice(self._shared)


def _express(
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
    minus = len(terms) == 2 and terms[0] != terms[1] and draws.below(2) == 0
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
