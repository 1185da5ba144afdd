"""Questions of each task as a person would write them, with the right answer and the one that was given."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from datagen.depo_text import Name, parse
from datagen.gsm.text import POSITIVE
from datagen.gsm.vocabulary import PUNCTUATION
from datagen.rows import PAD_NAME, Rows
from datagen.schema import Dataset

CONTEXT_CHARACTERS = 400
GAP = " …"

# byte-level tokenizers (GPT-2's alphabet) write these bytes as themselves, the others as U+0100 and on
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}


class AnsweredQuestion(NamedTuple):
    """One question of a row and what a model answered.

    tokens: of the whole row, with the pads at its left; starts: where each of the row's answers starts;
    number: which of them this is; length: its tokens; depth: at which it is asked; given: the tokens predicted.
    """

    tokens: Sequence[int]
    starts: Sequence[int]
    number: int
    length: int
    depth: int
    given: Sequence[int]

    @property
    def start(self) -> int:
        return self.starts[self.number]

    @property
    def right(self) -> Sequence[int]:
        """The tokens of the right answer."""
        return self.tokens[self.start : self.start + self.length]


class QuestionText(NamedTuple):
    """A question in words, its right answer, and the answer that was given."""

    problem: str
    right: str
    given: str


def question_formatter(dataset: Dataset) -> Callable[[AnsweredQuestion], QuestionText]:
    """How questions of a dataset are shown: by its task, or as the words of its vocabulary for tasks unknown here."""
    forms = {"rule110": _rule110, "depo": _depo, "gsm": _gsm}
    form = forms.get(dataset.task, _words)
    return lambda asked: form(asked, dataset)


def _rule110(asked: AnsweredQuestion, dataset: Dataset) -> QuestionText:
    cells, states = dataset.config["cells"], dataset.config["states"]
    # a row asks as many cells of each state, in one answer or several, one state after the other
    state, part = divmod(asked.number, len(asked.starts) // states)
    first = part * asked.length + 1
    cell = f"Cell {first}" if asked.length == 1 else f"Cells {first} to {first + asked.length - 1}"
    which = f"State {state + 1} of {states}: " if states > 1 else ""
    start = asked.starts[0] - 1 - (states - state) * cells  # a pad may stand before the states, `?` stands behind
    read = "".join(dataset.vocabulary[token] for token in asked.tokens[start : start + cells])
    problem = f"{which}{read}. {cell} after {asked.depth} steps?"
    return QuestionText(problem, _spoken(asked.right, dataset), _spoken(asked.given, dataset))


def _depo(asked: AnsweredQuestion, dataset: Dataset) -> QuestionText:
    puzzle = parse([dataset.vocabulary[token] for token in asked.tokens])
    question = next(q for q in puzzle.questions if q.start == asked.start)
    following, cycle = dict(puzzle.edges), [question.node]
    while (after := following[cycle[-1]]) != question.node:
        cycle.append(after)
    path = " → ".join(map(_node, [*cycle, question.node]))
    given = tuple(dataset.vocabulary[token] for token in asked.given)
    # a hop count of 0 is the node itself, once round
    where = f"{cycle.index(given) or len(cycle)} hops away" if given in following else "not on the cycle"
    problem = f"{path} ({len(cycle)} nodes). {question.hops} hops from {_node(question.node)}?"
    return QuestionText(problem, _node(question.answer), f"{_node(given)} ({where})")


def _node(name: Name) -> str:
    return "".join(name)


def _gsm(asked: AnsweredQuestion, dataset: Dataset) -> QuestionText:
    before, right, given = (
        gsm_text(tokens, dataset) for tokens in (asked.tokens[: asked.start], asked.right, asked.given)
    )
    question, mark, context = before.partition("?")
    told = textwrap.shorten(context, CONTEXT_CHARACTERS, placeholder=GAP)
    return QuestionText(f"{question}{mark} {told}", right, given)


def gsm_text(tokens: Sequence[int], dataset: Dataset) -> str:
    """The text that tokens of a GSM dataset stand for."""
    words = [dataset.vocabulary[token] for token in tokens]
    if dataset.config.get("tokenizer") is not None:
        characters = (bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode() for c in "".join(words))
        return b"".join(characters).decode(errors="replace").strip()
    return "".join(word if word in PUNCTUATION else f" {word}" for word in words).strip()


def _words(asked: AnsweredQuestion, dataset: Dataset) -> QuestionText:
    before = _spoken(asked.tokens[: asked.start], dataset)
    return QuestionText(before, _spoken(asked.right, dataset), _spoken(asked.given, dataset))


def _spoken(tokens: Sequence[int], dataset: Dataset) -> str:
    words = (dataset.vocabulary[token] for token in tokens)
    return " ".join(word for word in words if word != PAD_NAME)


def kinds_of(rows: Rows, dataset: Dataset) -> list[str]:
    """GSM: forward or reverse, of each row; [] for tasks with one kind."""
    if dataset.task != "gsm":
        return []
    # only a reverse problem holds a quantity of which nothing else is told
    texts = (gsm_text(tokens, dataset) for tokens in rows.tokens.tolist())
    return ["reverse" if f"{POSITIVE}." in text else "forward" for text in texts]
