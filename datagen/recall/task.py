"""Recall: say a passage again that was read some windows ago. Not in the paper; it measures what a sleep keeps.

Needs only NumPy, and `tokenizers` if a task names a tokenizer.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

import numpy as np

from datagen.byte_vocabulary import BYTES, TextVocabulary
from datagen.checks import require, require_whole
from datagen.gsm.encoder import encoder_of
from datagen.gsm.vocabulary import Words
from datagen.recall.documents import Documents
from datagen.recall.sources import DocumentSource, ProblemSource, Source
from datagen.rng import Rng
from datagen.rows import Rows
from datagen.task import Task, random_stream
from datagen.tokenizer import Tokenizer
from datagen.vocabulary import PieceEncoder, Vocabulary, joined
from datagen.wording import AnsweredQuestion, Control, QuestionText, byte_level_text

PROMPT = "\nAgain:"
MAX_SPAN, MAX_DISTANCE = 8192, 1024
TRIES = 1000  # to find a passage that stands once in its row
CONTEXT_CHARACTERS = 400

OWN, OTHER = "own", "other"


@dataclass(frozen=True)
class Recall(Task):
    """A row is some windows of text, then one with "Again:", the first words of a passage that was read, and the rest.

    passage     2..span, tokens of the passage, which begins with a sentence.
    cue         0..passage - 1, its first tokens, which the question repeats. The others are the answer.
    span        4..8192, tokens of a window. The question has to fit into one: "Again:" and the passage.
    distances   windows of text, 1..1024 each, in increasing order; each row draws one of them. It is the depth of the
                answer: the passage stands in the first window, so 1 asks for the window that has just ended.
    tokenizer   a tokenizer.json, or a directory with one. None: one token per word, or per byte of a text.
    text        a file in UTF-8, or a folder of .txt and .md files. None: sentences of GSM-Infinite's problems (Gsm).

    Train rows ask for a passage that was read: they are of the kind "own". Validation and test rows come in pairs of
    consecutive rows that differ in one thing: in the second, of the kind "other", another passage stands in place of
    the one that is asked. What a model says better in "own" than in "other" it remembers; the rest is the language. No
    row has the asked passage a second time. The last row of a shard with an odd number of rows has no "other" one.

    No two splits ask for the same passage, whatever their seeds. A text's stretches of about 2,000 characters are
    assigned to splits by a hash of their content, and so are passages of GSM problems: 3/4 to train, 1/8 each to
    validation and test. Of a text, only sentences that begin one passage of this length are asked for.

    The dataset is identified by the contents of the tokenizer and of the text, not by their paths; Ray's workers read
    both at these paths, so on a cluster they must lie on a disk that all nodes share, and must not change meanwhile.
    """

    passage: int = 48
    cue: int = 8
    span: int = 64
    distances: tuple[int, ...] = (1,)
    tokenizer: str | None = None
    text: str | None = None

    control = Control(OTHER, of=OWN)

    def __post_init__(self) -> None:
        require_whole("span", self.span, 4, MAX_SPAN)
        require_whole("passage", self.passage, 2, self.span)
        require_whole("cue", self.cue, 0, self.passage - 1)
        given = self.distances
        require(
            isinstance(given, (tuple, list)) and len(given) > 0, "distances", given, "a list of at least one integer"
        )
        for number, distance in enumerate(given):
            require_whole(f"distances[{number}]", distance, given[number - 1] + 1 if number else 1, MAX_DISTANCE)
        object.__setattr__(self, "distances", tuple(given))  # a dataset.json holds a list
        for name in ("tokenizer", "text"):
            path = getattr(self, name)
            require(path is None or type(path) is str, name, path, "a path as a str, or null")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self._vocabulary.tokens

    @property
    def context_length(self) -> int | None:
        """Tokens of text before the question; None if rows differ in this number."""
        return self.distances[0] * self.span if len(self.distances) == 1 else None

    @property
    def row_length(self) -> int:
        return self.distances[-1] * self.span + self.question_length

    @property
    def question_length(self) -> int:
        """Tokens of "Again:" and the passage. Raises ValueError if these do not fit into a window."""
        prompt = len(self._prompt)
        most = self.span - prompt
        allowed = (
            f"at most {most}, so that it and the {prompt} tokens of {PROMPT.strip()!r} fit into span = {self.span}"
        )
        require(self.passage <= most, "passage", self.passage, allowed)
        return prompt + self.passage

    @property
    def max_depth(self) -> int:
        """Windows of text."""
        return self.distances[-1]

    def with_depth(self, depth: int) -> Recall:
        """The same passages, all asked at another distance."""
        return replace(self, distances=(depth,))

    def identity(self) -> dict[str, Any]:
        fields = super().identity()
        if (documents := self._documents) is not None:
            fields["text"] = documents.sha256
        return fields

    def check_window(self, window: int) -> None:
        if self.span % window or window < self.question_length:
            raise ValueError(
                f"window = {window}: must be the task's span of {self.span} tokens, or a divisor of it that holds the "
                f"{self.question_length} tokens of the question"
            )

    @property
    def _documents(self) -> Documents | None:
        return None if self.text is None else Documents.read(self.text)

    @property
    def _encoder(self) -> PieceEncoder:
        """Of the sentences of problems."""
        return _words() if self.tokenizer is None else encoder_of(self.tokenizer)

    @property
    def _text_vocabulary(self) -> TextVocabulary:
        return BYTES if self.tokenizer is None else Tokenizer.read(self.tokenizer)

    @property
    def _vocabulary(self) -> Vocabulary:
        return self._encoder.vocabulary if self.text is None else self._text_vocabulary

    @property
    def _prompt(self) -> list[int]:
        return self._vocabulary.encode(PROMPT)

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, each with one answer at its end.

        Raises ValueError for a bad split, seed, shard or number of rows, for a tokenizer or a text that cannot be used,
        and if the text is too short or repeats itself too often.
        """
        require_whole("rows", rows, 1, 2**31 - 1)
        rng = Rng(random_stream(self, split, seed, shard))
        question = self.question_length
        tokens = list(islice(self._rows(split, rng), rows))
        answer = self.passage - self.cue
        start = [[len(row) - answer] for row in tokens]
        depth = [[(len(row) - question) // self.span] for row in tokens]
        dtype = np.uint16 if len(self.vocabulary) <= 2**16 else np.uint32
        found = Rows.of(tokens, start, [[answer]] * rows, depth, dtype=dtype)
        if self.context_length is None:
            return found
        return Rows(*(column.values.reshape(rows, -1) for column in found.columns().values()))

    def _rows(self, split: str, rng: Rng) -> Iterator[list[int]]:
        """Tokens of rows without end: of a pair in validation and test, the own passage first."""
        prompt, source = self._prompt, self._source(split, rng)
        while True:
            own, other, passage = self._contexts(rng, source)
            yield [*own, *prompt, *passage]
            if split != "train":
                yield [*other, *prompt, *passage]

    def _source(self, split: str, rng: Rng) -> Source:
        if (documents := self._documents) is None:
            return ProblemSource(split, rng, self._encoder, self.passage)
        longest = self.distances[-1] * self.span
        return DocumentSource(split, rng, documents, self._text_vocabulary, self.passage, longest)

    def _contexts(self, rng: Rng, source: Source) -> tuple[list[int], list[int], list[int]]:
        """Windows of text with a passage in the first, the same with another passage in its place, and the passage."""
        windows = rng.choice(self.distances)
        for _ in range(TRIES):
            at = rng.below(self.span - self.passage + 1)
            excerpt = source.draw(at, windows * self.span - at)
            if excerpt is not None:
                own, end = excerpt.tokens, at + self.passage
                other, passage = [*own[:at], *excerpt.elsewhere, *own[end:]], own[at:end]
                if occurrences(own, passage) == [at] and not occurrences(other, passage):
                    return own, other, passage
        raise ValueError(
            f"passage = {self.passage}: none of {TRIES} passages stood only once in its row: take longer passages, or "
            "a text that repeats itself less often"
        )

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The first window, the cue, and both answers."""
        first = textwrap.shorten(self._decoded(asked.words[: self.span]), CONTEXT_CHARACTERS, placeholder=" …")
        cue = self._decoded(asked.words[asked.start - self.cue : asked.start])
        ago = "1 window" if asked.depth == 1 else f"{asked.depth} windows"
        problem = f"Read {ago} ago: {first}{PROMPT} {cue}".rstrip()
        return QuestionText(problem, self._decoded(asked.right), self._decoded(asked.given))

    def kinds(self, rows: Iterable[Sequence[str]]) -> list[str]:
        """ "own" for each row whose passage stands in its text, else "other"."""
        return [OWN if occurrences(row[: self.span], row[-self.passage :]) else OTHER for row in rows]

    def _decoded(self, words: Iterable[str]) -> str:
        """The text that words of the vocabulary stand for; needs neither the tokenizer nor the text."""
        return joined(words) if self.tokenizer is None and self.text is None else byte_level_text(words)


def occurrences(tokens: Sequence[Any], passage: Sequence[Any]) -> list[int]:
    """Where the passage begins in the tokens, each time."""
    most = len(tokens) - len(passage) + 1
    return [i for i in range(most) if tokens[i] == passage[0] and tokens[i : i + len(passage)] == passage]


@cache
def _words() -> PieceEncoder:
    return PieceEncoder(Words([PROMPT]))
