"""Rows of Facts as text for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datagen.facts.reader import read
from datagen.wording import AnsweredQuestion, QuestionText, TextWording


class FactsWording(TextWording):
    facts: tuple[int, ...]
    question_kinds: tuple[str, ...]

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The sentences that the answer needs, the question, and where the document has the given name."""
        document = read(self.text(asked.words))
        question = document.questions[asked.number]
        needed = document.needed(question)
        told = [f"{document.sentences[each.sentence]}." for each in sorted(needed, key=lambda each: each.sentence)]
        given = self.text(asked.given)
        if any(given == each.object for each in document.statements if each[:2] == needed[-1][:2]):
            where = "before it changed"
        elif any(given in (each.subject, each.object) for each in document.statements):
            where = "of another fact"
        else:
            where = "of no fact"
        return QuestionText(" ".join([*told, question.text]), self.text(asked.right), f"{given} ({where})")

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """ "recall", "hop" or "change", with the number of facts, of each row: "recall at 16 facts"."""
        if len(self.facts) * len(self.question_kinds) == 1:
            return []
        digits = len(str(max(self.facts)))
        documents = (read(self.text(words)) for words in rows)
        return [f"{each.kind(each.questions[0])} at {len(each.facts):0{digits}} facts" for each in documents]
