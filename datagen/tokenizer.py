"""A pretrained model's tokenizer: Hugging Face's tokenizer.json, with the model's chat template beside it.

Datasets and models keep a copy of the tokenizer that their tokens are of, so that neither depends on a path. Needs the
package `tokenizers` when it is used, and `jinja2` for a chat, not to be carried along.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from datagen.canonical import canonical_json
from datagen.chat import Message, render_chat
from datagen.files import Stamp, stamp, write_texts
from datagen.storage import as_path, local_path

FILES = TOKENIZER, SETTINGS, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
CHAT_TEMPLATE, EOS = "chat_template", "eos_token"  # in SETTINGS
# what ends a text, or a message of a chat, in the tokenizers of Llama, Qwen, SmolLM and others
ENDS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>")
MAX_TOKENS = 2**20  # the largest tokenizers in use have about 262,000


@dataclass(frozen=True)
class Tokenizer:
    """json: the content of tokenizer.json; chat_template: in Jinja, None if the model has none; source: the file, for
    errors; special: the special tokens that have a role, such as ("eos_token", "</s>"). It adds no special tokens to a
    text."""

    json: str
    chat_template: str | None = None
    source: str = TOKENIZER
    special: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Tokenizer:
        """The tokenizer.json at `path`, or in a directory there, with the chat template beside it.

        Raises ValueError if there is no valid tokenizer, or if it has an id of MAX_TOKENS or above.
        """
        where = local_path(path)
        # os.path, unlike pathlib, also returns False for names that no file system accepts.
        file = where / TOKENIZER if os.path.isdir(where) else where
        if not os.path.isfile(file):
            missing = str(file)[:200]
            raise ValueError(
                f"tokenizer must be a tokenizer.json or a directory with one, but {missing!r} does not exist"
            )
        return _read(file, tuple(stamp(file.with_name(name)) for name in (file.name, SETTINGS, TEMPLATE)))

    def write(self, directory: Path) -> None:
        """Write `files`, and remove those of another tokenizer. Raises OSError."""
        write_texts(directory, self.files, FILES)

    @property
    def files(self) -> dict[str, str]:
        """tokenizer.json, and the chat template and special tokens in tokenizer_config.json: the texts by name."""
        texts, settings = {TOKENIZER: self.json}, dict(self.special)
        if self.chat_template is not None:
            settings[CHAT_TEMPLATE] = self.chat_template
        if settings:
            texts[SETTINGS] = json.dumps(settings, indent=2) + "\n"
        return texts

    @cached_property
    def sha256(self) -> str:
        """What identifies it, in hex: the checksum of tokenizer.json, the chat template and the special tokens."""
        content = canonical_json([self.json, self.chat_template, dict(self.special)])
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def size(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Token id -> its text; "" for an id without a token."""
        return tuple(self._backend.id_to_token(i) or "" for i in range(self.size))

    def encode(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a text, and for each the number of characters of the text up to its end."""
        found = self._backend.encode(text, add_special_tokens=False)
        return list(found.ids), [end for _, end in found.offsets]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; ids without a token, as padded vocabularies have, have no text."""
        return str(self._backend.decode([i for i in ids if i < self.size], skip_special_tokens=False))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text, or the model's message in a chat."""
        ids = (self._backend.token_to_id(text) for text in {*ENDS, dict(self.special).get(EOS, "")})
        return tuple(sorted(found for found in ids if found is not None))

    def chat(self, messages: Sequence[Message], add_generation_prompt: bool = True, **more: object) -> str:
        """The text of messages [{"role": "user", "content": "..."}, ...] by the chat template, as transformers renders
        it. add_generation_prompt: whether to end with what makes the model answer; more: other names for the template.

        Raises ValueError if there is no template, or if it cannot render the messages. Needs jinja2.
        """
        if self.chat_template is None:
            raise ValueError(f"tokenizer {self.source} has no chat template: give plain text")
        names: dict[str, object] = {**dict(self.special), "tools": None, "documents": None, **more}
        names["add_generation_prompt"] = add_generation_prompt
        try:
            return render_chat(self.chat_template, messages, **names)
        except ValueError as error:
            raise ValueError(
                f"the chat template of tokenizer {self.source} cannot render these messages: {error}; change them, or "
                "give plain text"
            ) from error

    @cached_property
    def _backend(self) -> Any:
        from tokenizers import Tokenizer as Backend

        try:
            backend = Backend.from_str(self.json)
        except BaseException as error:  # tokenizers raises no narrower type; a panic of its Rust is no Exception
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ValueError(
                f"tokenizer {self.source} cannot be read ({error!s:.200}): give a Hugging Face tokenizer.json"
            ) from error
        backend.no_truncation()  # some files come with a limit
        backend.no_padding()
        return backend


@lru_cache(maxsize=4)
def _read(file: Path, _stamps: tuple[Stamp | None, ...]) -> Tokenizer:
    """The tokenizer in a file, which had these stamps, as had those beside it: it takes a second to parse."""
    try:
        text = file.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(
            f"tokenizer {file} cannot be read ({error!s:.200}): give a Hugging Face tokenizer.json"
        ) from error
    found = _beside(file, text)
    if not 1 <= found.size <= MAX_TOKENS:
        raise ValueError(
            f"tokenizer {file} must have 1 to {MAX_TOKENS:,} tokens, has {found.size:,} by its largest id: give "
            "another tokenizer.json"
        )
    return found


def stored_tokenizer(directory: str | Path) -> Tokenizer | None:
    """The tokenizer that a dataset or a model keeps in its directory, which may be in an object store; None without."""
    file = as_path(directory) / TOKENIZER
    if not file.is_file():
        return None
    return _beside(file, _read_text(file))


def _beside(file: Path, text: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json with that text, and of the files beside it.

    Raises ValueError if tokenizer_config.json is no JSON, or a file not UTF-8.
    """
    settings, template = file.with_name(SETTINGS), file.with_name(TEMPLATE)
    try:
        given = json.loads(_read_text(settings)) if settings.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{settings}: not JSON ({error!s:.200}); take another copy of the tokenizer") from error
    given = given if isinstance(given, dict) else {}
    chat = _read_text(template) if template.is_file() else given.get(CHAT_TEMPLATE)
    if isinstance(chat, list):  # several, by name
        chat = next(
            (each.get("template") for each in chat if isinstance(each, dict) and each.get("name") == "default"), None
        )
    special = {name: _text(value) for name, value in given.items() if name.endswith("_token")}
    return Tokenizer(
        text,
        chat if isinstance(chat, str) else None,
        str(file),
        tuple((name, value) for name, value in special.items() if value is not None),
    )


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 ({error!s:.200}); take another copy of the tokenizer") from error


def _text(token: object) -> str | None:
    """A special token of tokenizer_config.json: a text, or fields with it; None for flags, such as add_bos_token."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None
