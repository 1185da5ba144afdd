"""GSM-Infinite problems, generated or imported, as text for people to read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from datagen.gsm.text import POSITIVE
from datagen.gsm.vocabulary import PUNCTUATION
from datagen.wording import AnsweredQuestion, QuestionText, Wording

CONTEXT_CHARACTERS = 400
GAP = " …"

# Byte-level tokenizers (GPT-2's alphabet) write these bytes as themselves, and the others as U+0100, U+0101, ...
_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + i): byte for i, byte in enumerate(_HIDDEN)}


class GsmWording(Wording):
    """Decodes tokens from the vocabulary alone; it needs to know whether there is a tokenizer, but not its file."""

    tokenizer: str | None

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The question, the beginning of the context, and the numbers."""
        before, right, given = map(self.text, (asked.words[: asked.start], asked.right, asked.given))
        question, mark, context = before.partition("?")
        shown = textwrap.shorten(context, CONTEXT_CHARACTERS, placeholder=GAP)
        return QuestionText(f"{question}{mark} {shown}", right, given)

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """ "forward" or "reverse" for each row."""
        # Only a reverse problem contains an unknown quantity.
        return ["reverse" if f"{POSITIVE}." in self.text(words) else "forward" for words in rows]

    def text(self, words: Iterable[str]) -> str:
        """The text that words of the vocabulary stand for."""
        if self.tokenizer is None:
            return "".join(word if word in PUNCTUATION else f" {word}" for word in words).strip()
        characters = (bytes([BYTE_OF[c]]) if c in BYTE_OF else c.encode() for c in "".join(words))
        return b"".join(characters).decode(errors="replace").strip()


@dataclass(frozen=True)
class Imported(GsmWording):
    """The config of an imported dataset. imported_sha256: checksum of the imported file; split: the split it became;
    tokenizer: the name of the tokenizer's file, None if each word is one token; skipped: malformed lines left out."""

    imported_sha256: str
    split: str
    tokenizer: str | None
    skipped: int = 0
