"""Text as tokens: one token per word, for models trained from scratch, or a pretrained model's tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Protocol

from datagen.tokenizer import Tokenizer

PUNCTUATION = (",", ".", "?", ":")  # marks that follow a word without a space


class Vocabulary(Protocol):
    @property
    def tokens(self) -> tuple[str, ...]:
        """Token id -> its text."""

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Iterable[int]) -> str: ...


class WordVocabulary:
    """One token for each word and punctuation mark. decode(encode(text)) == text if all spaces are single."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    def encode(self, text: str) -> list[int]:
        """Raises ValueError for a word that is not in the vocabulary."""
        try:
            return [self._ids[word] for word in split(text)]
        except KeyError as error:
            raise ValueError(
                f"{error.args[0]!r} is not one of the {len(self.tokens)} words of the vocabulary"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        return joined(self.tokens[i] for i in ids)


class PieceEncoder:
    """Encodes texts piece by piece with a vocabulary, and caches the tokens of each piece."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._piece = cache(vocabulary.encode)

    def encode(self, pieces: Iterable[str]) -> list[int]:
        """The tokens of all pieces, one after the other."""
        return [token for piece in pieces for token in self._piece(piece)]


def split(text: str) -> list[str]:
    """The words and punctuation marks of a text."""
    return re.findall(r"[,.?:]|[^\s,.?:]+", text)


def joined(words: Iterable[str]) -> str:
    """The inverse of `split`."""
    return "".join(word if word in PUNCTUATION else f" {word}" for word in words).strip()


def word_of(vocabulary: Sequence[str], token: int) -> str:
    """The word of a token. The vocabulary of a model, which may predict any of it, may be padded beyond this one."""
    return vocabulary[token] if token < len(vocabulary) else f"<{token}>"


def piecewise(found: Tokenizer, texts: Iterable[Sequence[str]]) -> Tokenizer:
    """The tokenizer, if it encodes each text as the concatenation of its pieces. Byte-level BPE does (GPT-2, Llama 3,
    Qwen, SmolLM). Raises ValueError if its tokens span two pieces."""
    for pieces in texts:
        text = "".join(pieces)
        if found.encode(text) != [token for piece in pieces for token in found.encode(piece)]:
            raise ValueError(
                f"tokenizer {found.source} must encode a text as it encodes its pieces, as byte-level BPE does, but "
                f"does not: {text!r}"
            )
    return found
