"""How problems of GSM-Infinite's family read, whether we made them or imported them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datagen.gsm.text import POSITIVE
from datagen.gsm.vocabulary import PUNCTUATION
from datagen.wording import AnsweredQuestion, QuestionText, Wording

CONTEXT_CHARACTERS = 400
GAP = " …"

# byte-level tokenizers (GPT-2's alphabet) write these bytes as themselves, the others as U+0100 and on
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}


class GsmWording(Wording):
    """Needs the words of the vocabulary, and whether a tokenizer made them: not the tokenizer itself."""

    tokenizer: str | None

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The question, the beginning of the context, and the numbers."""
        before, right, given = map(self.text, (asked.words[: asked.start], asked.right, asked.given))
        question, mark, context = before.partition("?")
        told = textwrap.shorten(context, CONTEXT_CHARACTERS, placeholder=GAP)
        return QuestionText(f"{question}{mark} {told}", right, given)

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """forward or reverse, of each row."""
        # only a reverse problem holds a quantity of which nothing else is told
        return ["reverse" if f"{POSITIVE}." in self.text(words) else "forward" for words in rows]

    def text(self, words: Iterable[str]) -> str:
        """The text that words of the vocabulary stand for."""
        if self.tokenizer is None:
            return "".join(word if word in PUNCTUATION else f" {word}" for word in words).strip()
        characters = (bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode() for c in "".join(words))
        return b"".join(characters).decode(errors="replace").strip()


@dataclass(frozen=True)
class Imported(GsmWording):
    """The config of a dataset that was imported. imported_sha256: of the file; split: the split that it became;
    tokenizer: the name of the tokenizer's file, None is one token a word."""

    imported_sha256: str
    split: str
    tokenizer: str | None
