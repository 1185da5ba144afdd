"""The level of a quantity: how many passes it takes to know its number, if a pass resolves all quantities whose operands
are known."""

from __future__ import annotations

from collections.abc import Mapping

from datagen.gsm.quantity import UNKNOWN, Expression, Quantity


def level_of(expression: Expression, levels: Mapping[Quantity, int]) -> int | None:
    """1 for a number, else 1 + the greatest level of the operands; None for an unknown, or if an operand has none."""
    operands = [levels[operand] for operand in expression.operands if operand in levels]
    if expression == UNKNOWN or len(operands) < len(expression.operands):
        return None
    return 1 + max(operands, default=0)


def levels_of(definitions: Mapping[Quantity, Expression], stated: Quantity | None) -> dict[Quantity, int]:
    """The levels of the quantities that have one; what depends on an unknown has none.

    definitions: in topological order; a total is computed from its numbers. stated: the quantity of which a reverse
    problem also states the number, so that its level is 1.
    """
    levels: dict[Quantity, int] = {}
    for quantity, expression in definitions.items():
        level = 1 if quantity == stated else level_of(expression, levels)
        if level is not None:
            levels[quantity] = level
    return levels
