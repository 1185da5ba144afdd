"""Distractors: quantities that may depend on the core and on one another, while the core depends on none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datagen.gsm.graph import MAX_NUMBER, MAX_VALUE, Core, express
from datagen.gsm.quantity import Expression, Kind, Quantity, Statement
from datagen.rng import Rng

# (number of operands, whether there is a constant) of a distractor. "official": about as frequent as in the official
# problems; "short": as in a core of two or three operations, but for totals.
SHAPES: Mapping[str, Sequence[tuple[int, bool]]] = {
    "official": ((0, True),) * 5 + ((1, False),) * 9 + ((2, False),) * 8 + ((1, True),) * 2 + ((2, True), (3, False)),
    "short": ((0, True),) * 3 + ((1, False), (1, True)),
}


class Distractors:
    """Draws distractors one at a time, with values in 1..MAX_VALUE as in the core.

    definitions  in topological order, of the core, of the totals that distractors may depend on, and of all that was
                 added.
    values       of the same quantities.
    """

    def __init__(self, rng: Rng, core: Core, hard: bool, shapes: str = "official", numbers: int = MAX_NUMBER) -> None:
        self._rng, self._theme, self._shapes, self._numbers = rng, core.theme, SHAPES[shapes], numbers
        self._kinds: Sequence[Kind] = ("number", "number", "average") if hard else ("number",)
        self.definitions, self.values = dict(core.definitions), dict(core.values)
        # The totals of these places have fixed values, so no new number may be counted there.
        self._with_total = {quantity.place for quantity in core.values if not quantity.thing}
        self._with_grand_total = {quantity.place for quantity in core.values if quantity.kind == "grand"}
        for place in dict.fromkeys(quantity.place for quantity in core.values):
            if place not in self._with_total and rng.below(2):
                self._add_total(place)
        self._core = list(self.values)
        self._all = list(self.values)

    def draw(self) -> tuple[Statement, int]:
        """The definition of a new quantity, and its value. Call `add` before another quantity may depend on it."""
        quantity = self._new()
        rng, value = self._rng, MAX_VALUE + 1
        while value > MAX_VALUE:
            wanted, constant = rng.choice(self._shapes)
            operands: list[Quantity] = []
            while len(operands) < min(wanted, len(self._all)):
                operand = rng.choice(self._core if rng.below(2) else self._all)
                if operand not in operands:
                    operands.append(operand)
            expression, value = express(rng, quantity.kind, operands, constant, self.values, self._numbers)
        return Statement(quantity, expression), value

    def add(self, statement: Statement, value: int) -> None:
        self.definitions[statement.quantity], self.values[statement.quantity] = statement.expression, value
        self._all.append(statement.quantity)

    def _new(self) -> Quantity:
        """A quantity that is not defined yet and does not change any total."""
        rng = self._rng
        while True:
            quantity = Quantity(rng.choice(self._kinds), rng.choice(self._theme.things), rng.choice(self._theme.places))
            if quantity in self.values:
                continue
            if quantity.place not in self._with_total:
                return quantity
            # An average is not counted in a total; the number that it goes with has to be counted already.
            if (
                quantity.kind == "average"
                and quantity.place not in self._with_grand_total
                and quantity._replace(kind="number") in self.values
            ):
                return quantity

    def _add_total(self, place: str) -> None:
        """Let distractors depend on the total of a core place, if each thing with an average there has a number."""
        here = [quantity for quantity in self.values if quantity.place == place]
        numbers = [quantity for quantity in here if quantity.kind == "number"]
        counted = {number.thing for number in numbers}
        value = sum(self.values[number] for number in numbers)
        if value <= MAX_VALUE and all(quantity.thing in counted for quantity in here):
            total = Quantity("total", "", place)
            self.definitions[total], self.values[total] = Expression(operands=tuple(numbers)), value
            self._with_total.add(place)
