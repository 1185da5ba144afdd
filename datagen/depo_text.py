"""Parses and solves rows of Depo; it shares no code with the generator.

row = <pad>* edge+ asked* question+    edge = name name [: [name]]    asked = ?[k] name : name
question = ?[k] name = name    name = [x] y
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from datagen.rows import PAD_NAME

_NAME = r"(?:x\d+ )?y\d+ "
_EDGE, _POINTED = re.compile(f"({_NAME})({_NAME})(?:: )?"), re.compile(f"({_NAME})({_NAME}): ({_NAME})")
_ASKED = re.compile(rf"\?(\d*) ({_NAME}): ({_NAME})")
_QUESTION = re.compile(rf"\?(\d*) ({_NAME})= ({_NAME})")
_CONTEXTS = (
    f"(?P<plain>(?:{_NAME}{_NAME})+)",
    f"(?P<pointed>(?:{_NAME}{_NAME}: {_NAME})+)",
    rf"(?P<marked>(?:{_NAME}{_NAME}: )+)(?P<asked>(?:\?\d* {_NAME}: {_NAME})+)",
)
_ROW = re.compile(rf"(?:{PAD_NAME} )*(?:{'|'.join(_CONTEXTS)})(?P<questions>(?:\?\d* {_NAME}= {_NAME})+)")

Name = tuple[str, ...]  # one or two vocabulary entries


@dataclass(frozen=True)
class Question:
    """Which node is `hops` hops from `node`, or from where its pointer begins if the row has pointers further ahead?
    answer: as the row states it, beginning at token `start`."""

    hops: int
    node: Name
    answer: Name
    start: int


@dataclass(frozen=True)
class Puzzle:
    """A parsed row: its edges (from, to) and its questions, in order. ahead: the hops from each node to its pointer; 1
    without pointers."""

    edges: tuple[tuple[Name, Name], ...]
    questions: tuple[Question, ...]
    ahead: int = 1

    def __post_init__(self) -> None:
        following = dict(self.edges)
        node, seen = self.edges[0][0], set()
        while node in following and node not in seen:
            seen.add(node)
            node = following[node]
        if node != self.edges[0][0] or len(seen) != len(self.edges):
            raise ValueError(f"the {len(self.edges)} edges must form one directed cycle, got {self.edges}")
        if not {question.node for question in self.questions} <= seen:
            raise ValueError("every question must ask about a node on the cycle")

    def solve(self, question: Question) -> Name:
        """The right answer, found by following the edges."""
        following, node = dict(self.edges), question.node
        for _ in range(self.ahead - 1 + question.hops):
            node = following[node]
        return node


def parse(words: Sequence[str], hops: int | None = None) -> Puzzle:
    """Read a row, given as vocabulary entries: `[vocabulary[token] for token in tokens]`.

    hops: of the questions that do not state theirs. Raises ValueError if the row does not follow the grammar, if its
    edges do not form one directed cycle, if the pointers are not all equally far ahead, if those of the questions are
    not of the questions that follow, or if a question has no hops.
    """
    text = "".join(f"{word} " for word in words)
    row = _ROW.fullmatch(text)
    if row is None:
        raise ValueError(f"not a row of Depo (pads, edges, questions): {text!r}")
    asked = _ASKED.findall(row["asked"] or "")
    if row["pointed"]:
        found = _POINTED.findall(row["pointed"])
        edges, pointers = [(source, target) for source, target, _ in found], [(node, to) for node, _, to in found]
    else:
        edges, pointers = _EDGE.findall(row["plain"] or row["marked"]), [(node, to) for _, node, to in asked]
    cycle = tuple((_name(source), _name(target)) for source, target in edges)
    questions = [
        Question(_hops(found[1], hops), _name(found[2]), _name(found[3]), start=text.count(" ", 0, found.start(3)))
        for found in _QUESTION.finditer(text, row.start("questions"))
    ]
    puzzle = Puzzle(cycle, tuple(questions))
    own = [(_hops(stated, hops), _name(node)) for stated, node, _ in asked]
    if asked and own != [(question.hops, question.node) for question in questions]:
        raise ValueError(f"the pointers must be those of the questions, in their order: {text!r}")
    return replace(puzzle, ahead=_ahead(cycle, [(_name(node), _name(to)) for node, to in pointers]))


def _ahead(edges: tuple[tuple[Name, Name], ...], pointers: list[tuple[Name, Name]]) -> int:
    """Hops from each node to its pointer, 1 if there are none."""
    following = dict(edges)
    reached = [following.get(node) for node, _ in pointers]
    for ahead in range(1, len(edges) + 1):
        if reached == [to for _, to in pointers]:
            return ahead
        reached = [following.get(node) for node in reached if node is not None]
    raise ValueError(f"pointers {pointers}: must all be equally many hops ahead on the cycle of {edges}")


def _name(text: str) -> Name:
    return tuple(text.split())


def _hops(stated: str, otherwise: int | None) -> int:
    if stated:
        return int(stated)
    if otherwise is None:
        raise ValueError("a question does not state its hops: pass `hops`, its depth")
    return otherwise
