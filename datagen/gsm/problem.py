"""A problem as text: question, context, answer and worked solution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from datagen.gsm.graph import Core, Linear, linear_forms
from datagen.gsm.quantity import Expression, Quantity
from datagen.gsm.text import PROMPT, noun

Mode = Literal["forward", "reverse"]


@dataclass(frozen=True)
class Problem:
    question: str
    context: str  # sentences, separated by single spaces
    answer: int
    operations: int  # in-edges, constants included, of all quantities that the answer depends on
    solution: str
    theme: str
    mode: Mode  # reverse: the text states the last quantity's value and asks for a number that it depends on

    @property
    def prompt(self) -> str:
        """Everything before the answer."""
        return f"{self.question} {self.context}{''.join(PROMPT)}"

    @property
    def completion(self) -> str:
        return f" {self.answer}"


def write_solution(core: Core) -> str:
    """A worked solution: one sentence per quantity of the core, in topological order, and the answer."""
    x = core.asked if core.reverse else None
    forms = linear_forms(core.definitions, x)
    assert forms is not None, "sample_core asks only for a leaf in which every quantity is linear"
    sentences = [
        f"Let x be the {noun(core.theme, quantity)}."
        if quantity == x
        else f"The {noun(core.theme, quantity)} is {_working(quantity, expression, forms)}."
        for quantity, expression in core.definitions.items()
    ]
    if x is not None:
        sentences.append(f"It is told to be {core.values[core.last]}, so x = {core.answer}.")
    return " ".join([*sentences, f"Answer: {core.answer}."])


def _working(quantity: Quantity, expression: Expression, forms: Mapping[Quantity, Linear]) -> str:
    """The expression with its operands' values, and the result: "2 * (3 + x) = 2 * x + 6"."""
    constant, operands, minus, times = expression
    terms = [_linear(forms[operand]) for operand in operands]
    if len(terms) > 1:
        terms = [f"({term})" if " " in term else term for term in terms]
    if quantity.kind == "grand":
        terms = [f"{a} * {b}" for a, b in zip(terms[::2], terms[1::2], strict=True)]
    working = (" - " if minus else " + ").join(terms)
    if constant is not None:
        if times:
            working = f"{constant} * ({working})" if " " in working else f"{constant} * {working}"
        else:
            working = f"{constant} + {working}" if working else str(constant)
    result = _linear(forms[quantity])
    return working if working == result else f"{working} = {result}"


def _linear(form: Linear) -> str:
    a, b = form
    if a == 0:
        return str(b)
    variable = "x" if a == 1 else f"{a} * x"
    return variable if b == 0 else f"{variable} {'+' if b > 0 else '-'} {abs(b)}"
