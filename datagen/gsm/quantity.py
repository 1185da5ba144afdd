"""What the problems speak of: quantities, and the expressions that define them."""

from __future__ import annotations

from typing import Literal, NamedTuple

# number   of a thing in a place: "the number of adult owl in Pine Ridge"
# average  per thing in a place: "the average number of newborn children per adult owl in Pine Ridge"
# total    of all numbers of things in a place that the text names
# grand    total over the things in a place of number times average
Kind = Literal["number", "average", "total", "grand"]


class Quantity(NamedTuple):
    kind: Kind
    thing: str  # "" for the two totals
    place: str


class Expression(NamedTuple):
    """[constant plus | constant times] (operand | sum of operands | difference of two operands).

    Without operands: the constant, or, without that too, an unknown number greater than 0.
    """

    constant: int | None = None
    operands: tuple[Quantity, ...] = ()
    minus: bool = False  # the difference, else the sum
    times: bool = False  # constant times, else constant plus

    @property
    def edges(self) -> int:
        """In-edges of the quantity it defines, the constant included; an unknown has one."""
        return (self.constant is not None) + len(self.operands) or 1


class Statement(NamedTuple):
    """One sentence: the quantity equals the expression."""

    quantity: Quantity
    expression: Expression


UNKNOWN = Expression()
