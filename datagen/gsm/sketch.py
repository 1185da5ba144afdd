"""The shape of a core: which quantities it has, and which of them each one reads."""

from __future__ import annotations

from collections.abc import Sequence

from datagen.gsm.draws import Draws
from datagen.gsm.quantity import Kind, Quantity
from datagen.gsm.themes import Theme

# In-edges that a quantity costs at least, with those of what it must read.
LEAST: dict[Kind, int] = {"number": 1, "average": 1, "total": 2, "grand": 4}
EASY_KINDS: Sequence[Kind] = ("number",) * 5 + ("total",)
HARD_KINDS: Sequence[Kind] = ("number",) * 4 + ("average",) * 4 + ("total", "grand")
EASY_LAST: Sequence[Kind] = ("number", "total")
HARD_LAST: Sequence[Kind] = ("number", "average", "total", "grand")
OPERANDS = (1, 1, 1, 2, 2, 2, 3, 4)  # of a core quantity


class Sketch:
    """All of a core but the operators and the numbers; `reads` is in the order of definition, the last quantity first.

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
            self.reads[quantity] = self._reads() if quantity.thing else (self._terms(quantity), False)

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

    def _reads(self) -> tuple[list[Quantity], bool]:
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
