"""Documents as tokens: texts, cut where they are long; prompts with their completions; chats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datagen.byte_vocabulary import TextVocabulary
from datagen.checks import MOST, require, require_one_of, require_whole, shortened
from datagen.splits import split_by_content
from datagen.task import SPLITS
from datagen.text.options import Options
from datagen.text.sources import CONTENTS
from datagen.tokenizer import Tokenizer

ASSISTANT, SYSTEM, CONTENT, ROLE = "assistant", "system", "content", "role"
# templates that write the date of today would make another dataset each day; Llama 3 writes this one without a clock
TODAY = date(2024, 7, 26)

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n+")
_LINE = re.compile(r"\n")


class Document(NamedTuple):
    """answers: start and length of each."""

    tokens: npt.NDArray[np.uint32]
    answers: list[tuple[int, int]]
    depth: int
    kind: str
    split: str


class About(NamedTuple):
    """What a record says of its document. split: None: by a hash."""

    depth: int = 1
    kind: str = ""
    split: str | None = None


@dataclass(frozen=True)
class Encoder:
    """Makes documents of texts and records. Those with the same prompt get the same split by the hash: a text is a
    prompt as a whole, and a chat up to its first answer."""

    vocabulary: TextVocabulary
    options: Options

    def text(self, text: str, about: About = About()) -> Iterator[Document]:  # noqa: B008
        """A text, in documents of at most max_tokens: cut behind the last paragraph that fits, else behind the last
        line, else between tokens. White space alone, or a single token, makes no document. Raises ValueError where
        losses are on completions only."""
        if self.options.loss == "completions":
            raise ValueError("is plain text, which has no completion: import it with --loss all")
        ids, ends = self.vocabulary.encode_with_ends(text)
        tokens, token_ends = np.array(ids, np.uint32), np.array(ends, np.int64)
        start = begin = 0  # in tokens and in characters
        for stop in cuts(text, token_ends, self.options.max_tokens):
            end = int(token_ends[stop - 1])
            if stop - start > 1 and text[begin:end].strip():
                yield self._document(tokens[start:stop], [(1, stop - start - 1)], about, text[begin:end])
            start, begin = stop, end

    def record(self, raw: Any) -> list[Document]:
        """The documents of a JSON object or a row of Parquet: one, or several of a long text.

        Raises ValueError, which says what is wrong.
        """
        if not isinstance(raw, dict):
            raise ValueError(f"must be a JSON object, got {raw!r:.40}")
        there = {name for name, value in raw.items() if value is not None}
        content = [names for names in CONTENTS if names & there]
        if len(content) != 1 or not content[0] <= there:
            has = ", ".join(sorted(map(str, there))) or "nothing"
            raise ValueError(f"must have prompt and completion, or messages, or text, has {has[:200]}")
        about = _about(raw)
        if "text" in there:
            found = list(self.text(_string(raw, "text"), about))
            require(bool(found), "text", raw["text"], "a text of at least two tokens")
            return found
        return [self._chat(raw["messages"], about) if "messages" in there else self._completion(raw, about)]

    def _completion(self, raw: dict[str, Any], about: About) -> Document:
        prompt, completion = _string(raw, "prompt"), _string(raw, "completion")
        # apart, as a model that is asked reads the prompt alone
        read, said = self.vocabulary.encode(prompt), self.vocabulary.encode(completion)
        require(bool(read), "prompt", prompt, "a text, from which the completion is predicted")
        require(bool(said), "completion", completion, "a text")
        answer = (len(read), len(said))
        return self._document(np.array(read + said, np.uint32), [answer], about, prompt)

    def _chat(self, messages: Any, about: About) -> Document:
        if not isinstance(self.vocabulary, Tokenizer):
            raise ValueError("has messages, which only a tokenizer with a chat template can write: give --tokenizer")
        text, said = _written(self.vocabulary, _checked(messages))
        ids, ends = self.vocabulary.encode_with_ends(text)
        after = np.array(ends, np.int64)
        before = np.concatenate(([0], after[:-1]))
        answers = []
        for start, end in said:
            inside = np.flatnonzero((before >= start) & (after <= end) & (after > start))
            if len(inside):
                answers.append((int(inside[0]), len(inside)))
        require(bool(answers) and answers[0][0] > 0, "messages", messages, "a chat in which the assistant answers")
        return self._document(np.array(ids, np.uint32), answers, about, text[: _end_of_prompt(messages, said)])

    def _document(
        self, tokens: npt.NDArray[np.uint32], answers: list[tuple[int, int]], about: About, content: str
    ) -> Document:
        """content: what the hash that chooses a split is of."""
        if self.options.loss == "all":
            answers = [(1, len(tokens) - 1)]
        split = self.options.split or about.split or split_by_content(content.encode())
        return Document(tokens, answers, about.depth, about.kind, split)


def cuts(text: str, ends: npt.NDArray[np.int64], max_tokens: int) -> Iterator[int]:
    """Where the documents of a text end, in tokens. ends: of the tokens, in characters."""
    paragraphs, lines = (
        np.searchsorted(ends, [at.end() for at in form.finditer(text)], side="right") for form in (_PARAGRAPH, _LINE)
    )
    start = 0
    while len(ends) - start > max_tokens:
        limit = start + max_tokens
        start = next((cut for breaks in (paragraphs, lines) if (cut := _last(breaks, limit)) > start), 0) or _between(
            ends, start, limit
        )
        yield start
    if start < len(ends):
        yield len(ends)


def _last(breaks: npt.NDArray[np.intp], limit: int) -> int:
    """The last of the breaks up to `limit`; 0 if there is none."""
    found = int(np.searchsorted(breaks, limit, side="right"))
    return int(breaks[found - 1]) if found else 0


def _between(ends: npt.NDArray[np.int64], start: int, limit: int) -> int:
    """The last position up to `limit` that is not inside a character; `limit` where there is none behind `start`."""
    cut = limit
    while cut > start and ends[cut - 1] == ends[cut]:
        cut -= 1
    return cut if cut > start else limit


def _about(raw: dict[str, Any]) -> About:
    depth, kind, split = (raw.get(name) for name in ("depth", "kind", "split"))
    if depth is not None:
        require_whole("depth", depth, 0, MOST)
    require(kind is None or (type(kind) is str and len(kind) <= 200), "kind", kind, "a text of up to 200 characters")
    if split is not None:
        require_one_of("split", split, SPLITS)
    (kind or "").encode()  # JSON can escape half of a surrogate pair, which has no UTF-8
    return About(1 if depth is None else depth, kind or "", split)


def _string(raw: dict[str, Any], name: str) -> str:
    text = raw[name]
    require(type(text) is str, name, text, "a text")
    text.encode()  # as above
    return str(text)


def _checked(messages: Any) -> list[dict[str, Any]]:
    require(isinstance(messages, list) and len(messages) > 0, "messages", messages, "a list of at least one message")
    for message in messages:
        fine = isinstance(message, dict) and all(type(message.get(name)) is str for name in (ROLE, CONTENT))
        require(fine, "messages", message, 'objects with the texts "role" and "content"')
        message[CONTENT].encode()
    require(
        any(each[ROLE] == ASSISTANT for each in messages), "messages", messages, "a chat in which the assistant answers"
    )
    return messages


def _end_of_prompt(messages: Sequence[dict[str, Any]], said: Sequence[tuple[int, int]]) -> int | None:
    """Where the first answer of a chat begins in its text, of which `said` has the answers; None where the assistant
    answers nobody. A greeting that it begins with is no answer: chats that share it may lie in different splits."""
    asked, answer = False, 0
    for message in messages:
        if message[ROLE] == ASSISTANT:
            if asked:
                return said[answer][0]
            answer += 1
        asked = asked or message[ROLE] not in (ASSISTANT, SYSTEM)
    return None


def _written(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
    """A chat as text, and where in it the assistant speaks: from what makes it answer to the end of its message.

    Raises ValueError where the template writes the beginning of a chat in another way once it goes on.
    """

    def written(count: int, prompt: bool) -> str:
        clock = {"strftime_now": TODAY.strftime}
        return tokenizer.chat(messages[:count], prompt, **clock)

    text, said = written(len(messages), False), []
    for number, message in enumerate(messages):
        if message[ROLE] == ASSISTANT:
            before, after = written(number, True), written(number + 1, False).rstrip()
            if not (text.startswith(after) and after.startswith(before)):
                raise ValueError(
                    f"messages: the tokenizer's chat template writes the beginning of this chat in another way once "
                    f"message {number + 1} follows, so where the assistant speaks cannot be told: give prompt and "
                    f"completion, got {shortened(repr(message[CONTENT]), 40)}"
                )
            said.append((len(before), len(after)))
    return text, said
