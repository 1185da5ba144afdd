"""Text in and text out, for a model that has a tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from datagen.storage import as_path, check_reachable
from datagen.tokenizer import Tokenizer
from sleepmodel.model import SleepModel


def encode_text(model: SleepModel, text: str, chat: bool = False) -> list[int]:
    """The tokens of a text, at least one. chat: as a user's message, by the chat template, ready for the answer.

    Raises ValueError if the model has no tokenizer or, for a chat, no template, if the text is empty or not Unicode, or
    if a token is not in the model's vocabulary.
    """
    tokenizer = tokenizer_of(model)
    if not text:
        raise ValueError("text is empty; give at least one character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text is not valid Unicode ({error!s:.200}); give UTF-8") from error
    tokens = tokenizer.encode(tokenizer.chat([{"role": "user", "content": text}]) if chat else text)
    if not tokens:
        raise ValueError(f"text {text!r:.80} has no tokens in this model's tokenizer; give another text")
    if max(tokens) >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer makes token {max(tokens)} of the text: must be below vocab_size = "
            f"{model.config.vocab_size}; give the model its own tokenizer"
        )
    return tokens


def decode_answer(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """The text of generated tokens, without pads and what ends it."""
    return tokenizer.decode(token for token in tokens if token >= 0 and token not in tokenizer.ends)


def read_text(path: str | Path) -> str:
    """The content of a text file in UTF-8, which may be in an object store. Raises FileNotFoundError if there is none,
    another OSError if it cannot be read, ValueError if it is empty or not UTF-8."""
    file = as_path(path)
    check_reachable(file)
    if not file.exists() or file.is_dir():
        raise FileNotFoundError(f"{path}: no file here; give the path of a text file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8; convert the file, or give a text file") from error
    if not text.strip():
        raise ValueError("the file is empty; give one with text")
    return text


def tokenizer_of(model: SleepModel) -> Tokenizer:
    """Raises ValueError if the model has none."""
    if model.tokenizer is None:
        raise ValueError("the model has no tokenizer: give tokens, not text")
    return model.tokenizer
