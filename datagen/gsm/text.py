"""Writes and parses the sentence forms of GSM-Infinite (arXiv 2502.05252).

The writer returns a sentence as pieces, each of which begins with a space or is punctuation, so that the tokens of a
piece can be cached. The parser takes whole texts with any names, so it reads generated and official problems alike.
"""

from __future__ import annotations

import re
from functools import cache

from datagen.gsm.quantity import UNKNOWN, Expression, Kind, Quantity, Statement
from datagen.gsm.themes import THEMES, Theme

TOTALS: dict[str, Kind] = {
    **dict.fromkeys((theme.total for theme in THEMES), "total"),
    **dict.fromkeys((theme.grand for theme in THEMES), "grand"),
}

PROMPT = (" Answer", ":")  # the pieces just before the answer
POSITIVE = " is greater than 0"  # the only statement about an unknown quantity
EXISTS = f" exists, and its number{POSITIVE}"
MAX_NOUN = 500  # characters of a quantity's name


class TextError(ValueError):
    """A sentence or question has none of the known forms."""


@cache
def noun(theme: Theme, quantity: Quantity) -> str:
    """The name of a quantity without an article: "total number of schools in Brightford"."""
    kind, thing, place = quantity
    if kind == "number":
        return f"number of {thing} in {place}"
    if kind == "average":
        return f"average number of {theme.per_thing} per {thing} in {place}"
    return f"total number of {theme.total if kind == 'total' else theme.grand} in {place}"


@cache
def _subject(theme: Theme, quantity: Quantity) -> str:
    return " The " + noun(theme, quantity)


@cache
def _object(theme: Theme, quantity: Quantity) -> str:
    return " the " + noun(theme, quantity)


def write_sentence(theme: Theme, statement: Statement) -> list[str]:
    """The pieces of a sentence, in order."""
    quantity, (constant, operands, minus, times) = statement
    pieces = [_subject(theme, quantity)]
    if not operands:
        if constant is not None:
            return [*pieces, " equals", f" {constant}", "."]
        return [
            *pieces,
            f"{POSITIVE if quantity.kind == 'average' else EXISTS}.",
        ]
    pieces.append(" equals")
    if constant is not None:
        pieces += (f" {constant}", " times" if times else " plus")
    first, *rest = (_object(theme, operand) for operand in operands)
    if not rest:
        return [*pieces, first, "."]
    if minus:
        return [*pieces, " the difference between", first, " and", *rest, "."]
    pieces += (" the sum of", first)
    for operand in rest[:-1]:
        pieces += (",", operand)
    if len(rest) > 1:
        pieces.append(",")
    return [*pieces, " and", rest[-1], "."]


def write_question(theme: Theme, quantity: Quantity) -> list[str]:
    """The pieces of the question for a quantity; the first does not begin with a space."""
    if quantity.kind == "number":
        return ["How many", f" {quantity.thing}", " does", f" {quantity.place}", " have", "?"]
    return ["What is", _object(theme, quantity), "?"]


def read_question(text: str) -> Quantity:
    """The quantity that the question asks for. Raises TextError if it has no known form."""
    if match := re.fullmatch(r"How many (.+) does (.+) have\?", text):
        return _read_noun(f"the number of {match[1]} in {match[2]}")
    if match := re.fullmatch(r"What is (the .+)\?", text):
        return _read_noun(match[1])
    raise TextError(f"not a question about a quantity: {text!r}")


def read_context(text: str) -> list[Statement]:
    """The statements of a text, in order. Raises TextError, which names the first sentence without a known form."""
    if not text.endswith("."):
        raise TextError(f"the text does not end with a full stop: {text[-80:]!r}")
    return [_read_sentence(sentence) for sentence in re.split(r"\. +(?=The )", text.removesuffix("."))]


def _read_sentence(text: str) -> Statement:
    for unknown in (EXISTS, POSITIVE):
        if text.endswith(unknown):
            return Statement(_read_noun(text.removesuffix(unknown)), UNKNOWN)
    subject, equals, right = text.partition(" equals ")
    if not equals:
        raise TextError(f"not a statement about a quantity: {text!r}")
    return Statement(_read_noun(subject), _read_expression(right))


def _read_expression(text: str) -> Expression:
    if match := re.fullmatch(r"([0-9]{1,9})(?: (plus|times) (.+))?", text):
        if match[2] is None:
            return Expression(int(match[1]))
        if re.match("[0-9]", match[3]):
            raise TextError(f"more than one constant before the quantities: {text!r}")
        return _read_expression(match[3])._replace(constant=int(match[1]), times=match[2] == "times")
    for form, minus in (("the sum of ", False), ("the difference between ", True)):
        if text.startswith(form):
            # Names may contain "and", so split only where an article and "number of" follow.
            nouns = re.split(r"(?:,| and|, and) (?=the (?:total |average )?number of )", text.removeprefix(form))
            if len(nouns) < 2 or (minus and len(nouns) > 2):
                raise TextError(f"wrong number of operands (a sum takes 2 or more, a difference 2): {text!r}")
            return Expression(operands=tuple(_read_noun(noun) for noun in nouns), minus=minus)
    return Expression(operands=(_read_noun(text),))


def _read_noun(text: str) -> Quantity:
    match = re.fullmatch(r"[Tt]he (total |average )?number of (.+)", text)
    if match is not None and len(text) <= MAX_NOUN:
        kind, name = match.groups()
        if kind == "total ":
            what, _, place = name.partition(" in ")
            if what in TOTALS and place:
                return Quantity(TOTALS[what], "", place)
        else:
            what, _, place = name.rpartition(" in ")
            _, per, thing = what.partition(" per ") if kind else ("", "", what)
            if place and thing and (per or not kind):
                return Quantity("average" if kind else "number", thing, place)
    raise TextError(f"not a quantity: {text!r:.{MAX_NOUN}}")
