"""Quantities that the answer does not need: they read the core and one another, and nothing in the core reads them."""

from __future__ import annotations

from collections.abc import Sequence

from datagen.gsm.draws import Draws
from datagen.gsm.graph import MAX_VALUE, Core, express
from datagen.gsm.quantity import Kind, Quantity, Statement

# (operands, whether with a constant) of a distractor, in about the shares of the official problems.
SHAPES = ((0, True),) * 5 + ((1, False),) * 9 + ((2, False),) * 8 + ((1, True),) * 2 + ((2, True), (3, False))


class Distractors:
    """Draws them one after another, values in 1..MAX_VALUE like the core's."""

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
            expression, value = express(draws, quantity.kind, operands, constant, self._values)
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
