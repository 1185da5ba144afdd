"""The relations between people and places, and the sentences that state, change and ask for them.

A sentence is written as pieces, each of which begins with a space or is punctuation. `{s}` stands for the subject,
`{o}` for the object. datagen.facts.reader reads the sentences, by patterns of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from datagen.facts.names import Name, Sort

FORMS = 3  # sentence forms of each relation


class Relation(NamedTuple):
    """A relation. states: the forms that state it; changes: those that state a new object, () if it never changes;
    question: asks for the object of `{s}`; described: the object, as the subject of another question."""

    name: str
    subject: Sort
    object: Sort
    states: tuple[str, ...]
    changes: tuple[str, ...]
    question: str
    described: str


RELATIONS = (
    Relation(
        "home",
        "person",
        "place",
        (" {s} lives in {o}.", " The home of {s} is in {o}.", " {o} is where {s} lives."),
        (" {s} now lives in {o}.", " The new home of {s} is in {o}.", " {o} is where {s} now lives."),
        " Where does {s} live?",
        " the town where {s} lives",
    ),
    Relation(
        "mentor",
        "person",
        "person",
        (" {s} learns from {o}.", " The mentor of {s} is {o}.", " {o} is the mentor of {s}."),
        (" {s} now learns from {o}.", " The new mentor of {s} is {o}.", " {o} is now the mentor of {s}."),
        " Who is the mentor of {s}?",
        " the mentor of {s}",
    ),
    Relation(
        "mayor",
        "place",
        "person",
        (" {s} is governed by {o}.", " The mayor of {s} is {o}.", " {o} is the mayor of {s}."),
        (" {s} is now governed by {o}.", " The new mayor of {s} is {o}.", " {o} is now the mayor of {s}."),
        " Who is the mayor of {s}?",
        " the mayor of {s}",
    ),
    Relation(
        "birthplace",
        "person",
        "place",
        (" {s} was born in {o}.", " The birthplace of {s} is {o}.", " {o} is where {s} was born."),
        (),
        " Where was {s} born?",
        " the town where {s} was born",
    ),
    Relation(
        "workplace",
        "person",
        "place",
        (" {s} works in {o}.", " The office of {s} is in {o}.", " {o} is where {s} works."),
        (" {s} now works in {o}.", " The new office of {s} is in {o}.", " {o} is where {s} now works."),
        " Where does {s} work?",
        " the town where {s} works",
    ),
    Relation(
        "doctor",
        "person",
        "person",
        (" {s} is treated by {o}.", " The doctor of {s} is {o}.", " {o} is the doctor of {s}."),
        (" {s} is now treated by {o}.", " The new doctor of {s} is {o}.", " {o} is now the doctor of {s}."),
        " Who is the doctor of {s}?",
        " the doctor of {s}",
    ),
)

# Sentences that state none of the relations. Each has at most one name, so that none is a pair of names.
DISTRACTORS = (
    " It rained.",
    " The bells were silent.",
    " Nobody spoke for a while.",
    " The evening was cold and clear.",
    " A long letter came from the coast.",
    " In the morning the market opened late again.",
    " {person} slept badly.",
    " {person} lost a glove on the way.",
    " A dog followed {person} through the rain.",
    " At noon {person} closed the window and read a book.",
    " The train to {place} was late.",
    " A map of {place} hung on the wall.",
)
PAUSE = " -"  # closes a gap that is too short for a sentence


@cache
def pieces(template: str) -> tuple[str, ...]:
    """The pieces of a template; a blank, such as `{s}`, is a piece without its space."""
    return tuple(re.findall(r"\{\w+\}|[.?]|(?: [^\s{.?]+)+", template))


def hops(relations: Sequence[Relation]) -> list[tuple[Relation, Relation]]:
    """The pairs of which the second is about the object of the first."""
    return [(first, second) for first in relations for second in relations if first.object == second.subject]


def hop(first: Relation, second: Relation) -> str:
    """The question for the second relation of the object of the first one."""
    return second.question.replace(" {s}", first.described)


def spelled(name: Name) -> list[str]:
    """The pieces of a name."""
    return [f" {word}" for word in name]
