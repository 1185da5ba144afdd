"""Quantities, the expressions that define them, and statements of such definitions."""

from __future__ import annotations

from typing import Literal, NamedTuple

# number   how many of a thing are in a place: "the number of adult owl in Pine Ridge"
# average  per thing in a place: "the average number of newborn children per adult owl in Pine Ridge"
# total    the sum of all numbers in a place that the text mentions
# grand    grand total: the sum of number times average over the things in a place
Kind = Literal["number", "average", "total", "grand"]


class Quantity(NamedTuple):
    """thing, place: what stands before and after the last " in " of the text. Where names contain " in ", the place may
    begin before it, but equal texts are equal quantities. A total's place is whole."""

    kind: Kind
    thing: str  # "" for the two totals
    place: str

    def __str__(self) -> str:
        """As errors name it."""
        what = {
            "number": f"number of {self.thing}",
            "average": f"average number per {self.thing}",
            "total": "total number",
            "grand": "grand total",
        }
        return f"the {what[self.kind]} in {self.place}"


class Expression(NamedTuple):
    """[constant plus | constant times] (operand | sum of operands | difference of two operands).

    Without operands it is the constant alone; without a constant too, an unknown number greater than 0.
    """

    constant: int | None = None
    operands: tuple[Quantity, ...] = ()
    minus: bool = False  # difference of the operands instead of their sum
    times: bool = False  # constant times instead of constant plus

    @property
    def edges(self) -> int:
        """In-edges of the quantity that it defines: operands and constant; an unknown counts as one."""
        return (self.constant is not None) + len(self.operands) or 1


class Statement(NamedTuple):
    """The content of one sentence: the quantity equals the expression."""

    quantity: Quantity
    expression: Expression


UNKNOWN = Expression()
