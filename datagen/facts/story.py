"""Draws facts about people and places, and which of them the questions ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from datagen.facts.names import Name, Names
from datagen.facts.relations import RELATIONS, Relation, hops
from datagen.rng import Rng

Kind = Literal["recall", "hop", "change"]
KINDS: tuple[Kind, ...] = ("recall", "hop", "change")


class Fact(NamedTuple):
    """earlier: the object before the change, None if the fact does not change."""

    relation: Relation
    subject: Name
    object: Name
    earlier: Name | None = None


class Story(NamedTuple):
    """facts: no two of one relation have the same subject; asked: the facts that each question needs, first hop first;
    their indices."""

    facts: list[Fact]
    asked: list[tuple[int, ...]]


def draw_story(rng: Rng, names: Names, kind: Kind, facts: int, questions: int, relations: int) -> Story:
    """A story with that many facts and questions of one kind. relations: how many of RELATIONS are in use.

    change: half the facts change, and the questions ask for these. hop: facts are drawn in pairs, the second about the
    object of the first, and the questions ask for the object of the second. For both, facts >= 2 * questions.
    """
    drawn = _Drawn(rng, names)
    used = RELATIONS[:relations]
    half = facts // 2
    if kind == "hop":
        pairs = hops(used)
        for _ in range(half):
            drawn.add_pair(*rng.choice(pairs))
        asked: Sequence[tuple[int, ...]] = [(2 * i, 2 * i + 1) for i in range(half)]
    elif kind == "change":
        changing = [relation for relation in used if relation.changes]
        for _ in range(half):
            drawn.add(changing, changes=True)
        asked = [(i,) for i in range(half)]
    else:
        asked = [(i,) for i in range(facts)]
    while len(drawn.facts) < facts:
        drawn.add(used)
    return Story(drawn.facts, rng.shuffled(asked)[:questions])


class _Drawn:
    """Facts drawn so far. A fact that would be about the same subject and relation as another one is drawn again."""

    def __init__(self, rng: Rng, names: Names) -> None:
        self._rng, self._names = rng, names
        self._known: set[tuple[Relation, Name]] = set()
        self.facts: list[Fact] = []

    def add(self, relations: Sequence[Relation], changes: bool = False) -> None:
        """Half the facts are about somebody of whom another fact tells, where there is one of the right sort."""
        rng = self._rng
        while True:
            relation = rng.choice(relations)
            subject = rng.choice(self._names.every[relation.subject])
            if self.facts and rng.below(2):
                other = rng.choice(self.facts)
                subject = other.subject if other.relation.subject == relation.subject else subject
            object_ = self._object(relation, subject)
            earlier = self._object(relation, subject) if changes else None
            if object_ not in (subject, earlier) and earlier != subject and (relation, subject) not in self._known:
                return self._append(Fact(relation, subject, object_, earlier))

    def add_pair(self, first: Relation, second: Relation) -> None:
        while True:
            subject = self._rng.choice(self._names.every[first.subject])
            middle = self._object(first, subject)
            last = self._object(second, middle)
            new = self._known.isdisjoint([(first, subject), (second, middle)])
            if new and len({subject, middle, last}) == 3:
                self._append(Fact(first, subject, middle))
                return self._append(Fact(second, middle, last))

    def _object(self, relation: Relation, subject: Name) -> Name:
        return self._rng.choice(self._names.objects(subject, relation.object))

    def _append(self, fact: Fact) -> None:
        self._known.add((fact.relation, fact.subject))
        self.facts.append(fact)
