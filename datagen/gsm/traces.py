"""The traces of a problem: which numbers can be known after how many passes, if a pass resolves each quantity whose
operands are known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datagen.gsm.distractors import Distractors
from datagen.gsm.graph import Core
from datagen.gsm.quantity import UNKNOWN, Expression, Quantity, Statement
from datagen.rows import NO_LABEL


class Known(NamedTuple):
    """What a position of a row can know after so many passes: a number, or in a row of tokens the token of one."""

    position: int
    number: int
    passes: int


def known_numbers(
    core: Core, distractors: Distractors, question: int, sentences: Iterable[tuple[int, Statement]]
) -> Iterator[Known]:
    """What the positions of a question and of sentences can know. sentences: their positions and statements."""
    levels = levels_of(distractors.definitions, core.last if core.reverse else None)
    if core.asked in levels:
        yield Known(question, core.answer, levels[core.asked] + 1)
    for position, (quantity, expression) in sentences:
        level = level_of(expression, levels)
        if level is not None:
            yield Known(position, distractors.values[quantity], level)


def levels_of(definitions: Mapping[Quantity, Expression], stated: Quantity | None) -> dict[Quantity, int]:
    """The level of each quantity, but for those that depend on an unknown.

    definitions: in topological order; a total is computed from its numbers. stated: the quantity of which a reverse
    problem also states the number, so that its level is 1.
    """
    levels: dict[Quantity, int] = {}
    for quantity, expression in definitions.items():
        level = 1 if quantity == stated else level_of(expression, levels)
        if level is not None:
            levels[quantity] = level
    return levels


def level_of(expression: Expression, levels: Mapping[Quantity, int]) -> int | None:
    """1 for a number, else 1 + the greatest level of the operands; None for an unknown, or if an operand has none."""
    operands = [levels[operand] for operand in expression.operands if operand in levels]
    if expression == UNKNOWN or len(operands) < len(expression.operands):
        return None
    return 1 + max(operands, default=0)


def labels_of(known: Sequence[Known], passes: int, tokens: int) -> npt.NDArray[np.int32]:
    """The traces of a row, int32 [passes * tokens]: once known, a number stays. Of each, `known` has the token."""
    labels = np.full((passes, tokens), NO_LABEL, np.int32)
    for position, token, first in known:
        labels[first - 1 :, position] = token
    return labels.reshape(-1)
