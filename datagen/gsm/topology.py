"""The topology of a core: its quantities, and the operands of each."""

from __future__ import annotations

from collections.abc import Sequence

from datagen.gsm.quantity import Kind, Quantity
from datagen.gsm.themes import Theme
from datagen.rng import Rng

# The fewest in-edges that a quantity of each kind adds, those of its required operands included.
LEAST: dict[Kind, int] = {"number": 1, "average": 1, "total": 2, "grand": 4}
EASY_KINDS: Sequence[Kind] = ("number",) * 5 + ("total",)
HARD_KINDS: Sequence[Kind] = ("number",) * 4 + ("average",) * 4 + ("total", "grand")
EASY_LAST: Sequence[Kind] = ("number", "total")
HARD_LAST: Sequence[Kind] = ("number", "average", "total", "grand")
OPERANDS = (1, 1, 1, 2, 2, 2, 3, 4)  # how many a core quantity has, drawn uniformly


class Topology:
    """A core without its operators and numbers: a random acyclic graph with exactly `operations` in-edges.

    inputs  quantity -> (its operands, whether it has a constant), the last quantity first.

    The graph is drawn backwards from the last quantity. A quantity is first requested, as an operand, and its own
    operands are drawn later, from quantities that have none yet; so there is no cycle. Each request reserves the fewest
    in-edges of its kind (LEAST), so that every quantity can get operands or a constant and all in-edges are used.
    """

    def __init__(self, rng: Rng, theme: Theme, operations: int, hard: bool) -> None:
        self._rng, self._theme = rng, theme
        self._kinds = HARD_KINDS if hard else EASY_KINDS
        self._fresh = rng.shuffled(theme.places)
        self._shared: list[str] = []  # places that no total of the core counts
        self._used: set[Quantity] = set()
        self._pending: list[Quantity] = []  # requested, without operands yet
        self._spare = operations  # in-edges that are neither used nor reserved
        self.inputs: dict[Quantity, tuple[list[Quantity], bool]] = {}
        self._request(self._affordable(HARD_LAST if hard else EASY_LAST))
        while self._pending:
            quantity = self._pending.pop(rng.below(len(self._pending)))
            self._spare += LEAST[quantity.kind]
            self.inputs[quantity] = self._operands() if quantity.thing else (self._terms(quantity), False)

    def _terms(self, total: Quantity) -> list[Quantity]:
        """The operands of a total: all numbers in its place, each followed by its average if it is a grand total."""
        # Each term has as many in-edges as it requests quantities.
        most = min(max(OPERANDS), self._spare // LEAST[total.kind])
        operands = []
        for _ in range(self._rng.between(1, most)):
            number = self._request("number", total.place)
            operands.append(number)
            if total.kind == "grand":
                operands.append(self._request("average", total.place, number.thing))
        self._spare -= len(operands)
        return operands

    def _operands(self) -> tuple[list[Quantity], bool]:
        """The operands of a number or an average, and whether it has a constant."""
        rng, operands = self._rng, list[Quantity]()
        # If no other quantity is pending, this one has to use the spare in-edges. If none is spare, only pending
        # quantities can be operands.
        must_have, may_have = not self._pending and self._spare > 1, self._pending or self._spare > 1
        if not must_have and (not may_have or rng.below(3) == 0):
            self._spare -= 1
            return operands, True
        constant = self._spare > (1 if self._pending else 2) and rng.below(3) == 0
        self._spare -= constant
        for _ in range(rng.choice(OPERANDS)):
            shared = [other for other in self._pending if other not in operands]
            if not self._spare or (self._spare == 1 and not shared):
                break
            self._spare -= 1
            if shared and (not self._spare or rng.below(3) == 0):
                operands.append(rng.choice(shared))
            else:
                operands.append(self._request(self._affordable(self._kinds)))
        return operands, constant

    def _affordable(self, kinds: Sequence[Kind]) -> Kind:
        """A random kind that the spare in-edges suffice for."""
        return self._rng.choice([kind for kind in kinds if LEAST[kind] <= self._spare])

    def _request(self, kind: Kind, place: str | None = None, thing: str | None = None) -> Quantity:
        """Request a new quantity; its place and thing are random unless given."""
        rng = self._rng
        if kind in ("total", "grand"):
            # A total gets a place of its own, as it would count every other number there.
            quantity = Quantity(kind, "", self._fresh.pop())
        else:
            place = place or self._some_place()
            quantity = Quantity(kind, thing or rng.choice(self._theme.things), place)
            while quantity in self._used:
                quantity = Quantity(kind, rng.choice(self._theme.things), place)
        self._used.add(quantity)
        self._pending.append(quantity)
        self._spare -= LEAST[kind]
        return quantity

    def _some_place(self) -> str:
        if not self._shared or self._rng.below(2):
            self._shared.append(self._fresh.pop())
        return self._rng.choice(self._shared)
