"""Reads documents and answers their questions. It sees only the text and shares no sentence form with the generator."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

NAME = re.compile(r"\b(?!The\b)[A-Z][a-z]+(?: [A-Z][a-z]+)?")
# sentences without names and without " now" or " new" -> the relation that they state, and whether the object is first
STATEMENTS = {
    "N lives in N": ("home", False),
    "The home of N is in N": ("home", False),
    "N is where N lives": ("home", True),
    "N works in N": ("workplace", False),
    "The office of N is in N": ("workplace", False),
    "N is where N works": ("workplace", True),
    "N was born in N": ("birthplace", False),
    "The birthplace of N is N": ("birthplace", False),
    "N is where N was born": ("birthplace", True),
    "N learns from N": ("mentor", False),
    "The mentor of N is N": ("mentor", False),
    "N is the mentor of N": ("mentor", True),
    "N is governed by N": ("mayor", False),
    "The mayor of N is N": ("mayor", False),
    "N is the mayor of N": ("mayor", True),
    "N is treated by N": ("doctor", False),
    "The doctor of N is N": ("doctor", False),
    "N is the doctor of N": ("doctor", True),
}
QUESTIONS = {
    "home": r"Where does (.+) live",
    "workplace": r"Where does (.+) work",
    "birthplace": r"Where was (.+) born",
    "mentor": r"Who is the mentor of (.+)",
    "mayor": r"Who is the mayor of (.+)",
    "doctor": r"Who is the doctor of (.+)",
}
DESCRIPTIONS = {
    "home": r"the town where (.+) lives",
    "workplace": r"the town where (.+) works",
    "birthplace": r"the town where (.+) was born",
    "mentor": r"the mentor of (.+)",
    "mayor": r"the mayor of (.+)",
    "doctor": r"the doctor of (.+)",
}


class Statement(NamedTuple):
    relation: str
    subject: str
    object: str
    sentence: int  # its number in the document


class Question(NamedTuple):
    """A question. path: the relations from `subject` to the answer; text: with its question mark; answer: as stated."""

    subject: str
    path: tuple[str, ...]
    text: str
    answer: str


class Document(NamedTuple):
    """What a row says."""

    sentences: list[str]
    statements: list[Statement]
    questions: list[Question]

    @property
    def facts(self) -> dict[tuple[str, str], Statement]:
        """(subject, relation) -> what is said of it last."""
        return {(said.subject, said.relation): said for said in self.statements}

    def needed(self, question: Question) -> list[Statement]:
        """The statements that give the answer, first to last hop. Raises KeyError if one is missing."""
        facts, subject, found = self.facts, question.subject, []
        for relation in question.path:
            found.append(facts[subject, relation])
            subject = found[-1].object
        return found

    def kind(self, question: Question) -> str:
        """ "recall", "hop" or "change"."""
        (first, *_), path = self.needed(question), question.path
        said = [each for each in self.statements if each[:2] == first[:2]]
        return "hop" if len(path) > 1 else "change" if len(said) > 1 else "recall"


def read(text: str) -> Document:
    """Read a row's text: sentences, each of which ends with a full stop, then questions with their answers.

    Raises ValueError if a question has no known form.
    """
    told = text[: text.rindex(".", 0, text.index("?")) + 1]
    sentences = [sentence.strip(" -") for sentence in told.removesuffix(".").split(".")]
    asked = text[len(told) :].rstrip(".").split(".")
    return Document(sentences, list(_statements(sentences)), [_question(*part.split("?")) for part in asked])


def _statements(sentences: list[str]) -> Iterator[Statement]:
    for number, sentence in enumerate(sentences):
        form = NAME.sub("N", sentence).replace(" now", "").replace(" new", "")
        if form in STATEMENTS:
            relation, object_first = STATEMENTS[form]
            first, second = NAME.findall(sentence)
            subject, object_ = (second, first) if object_first else (first, second)
            yield Statement(relation, subject, object_, number)


def _question(text: str, answer: str) -> Question:
    text, answer = text.strip(" -"), answer.strip()
    for relation, pattern in QUESTIONS.items():
        if match := re.fullmatch(pattern, text):
            for before, described in DESCRIPTIONS.items():
                if inner := re.fullmatch(described, match[1]):
                    return Question(inner[1], (before, relation), f"{text.strip(' -')}?", answer.strip())
            return Question(match[1], (relation,), f"{text.strip(' -')}?", answer.strip())
    raise ValueError(f"not a question about a fact: {text!r:.200}")
