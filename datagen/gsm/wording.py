"""GSM-Infinite problems, generated or imported, as text for people to read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datagen.gsm.text import POSITIVE
from datagen.rows import PAD_NAME
from datagen.wording import AnsweredQuestion, QuestionText, TextWording

CONTEXT_CHARACTERS = 400
GAP = " …"


class GsmWording(TextWording):
    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The question, the beginning of the context, and the numbers."""
        real = [word for word in asked.words[: asked.start] if word != PAD_NAME]
        before, right, given = map(self.text, (real, asked.right, asked.given))
        question, mark, context = before.partition("?")
        shown = textwrap.shorten(context, CONTEXT_CHARACTERS, placeholder=GAP)
        return QuestionText(f"{question}{mark} {shown}", right, given)

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """ "forward" or "reverse" for each row."""
        # Only a reverse problem contains an unknown quantity.
        return ["reverse" if f"{POSITIVE}." in self.text(words) else "forward" for words in rows]


@dataclass(frozen=True)
class Imported(GsmWording):
    """The config of an imported dataset. imported_sha256: checksum of the imported file; split: the split it became;
    tokenizer: the name of the tokenizer's file, None if each word is one token; skipped: malformed lines left out."""

    imported_sha256: str
    split: str
    tokenizer: str | None
    skipped: int = 0
