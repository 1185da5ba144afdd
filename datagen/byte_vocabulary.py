"""Text as tokens, for texts of one's own: a pretrained model's tokenizer, or one token per byte."""

from __future__ import annotations

from collections.abc import Iterable

from datagen.tokenizer import Tokenizer
from datagen.wording import BYTE_OF


class Bytes:
    """One token for each byte of the text's UTF-8, written as byte-level tokenizers write it."""

    tokens = tuple(sorted(BYTE_OF, key=BYTE_OF.__getitem__))

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        return self.encode(text), [end for end, character in enumerate(text, 1) for _ in character.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(ids).decode(errors="replace")


BYTES = Bytes()
TextVocabulary = Tokenizer | Bytes
