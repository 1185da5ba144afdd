"""Long grade-school math problems in the style of GSM-Infinite (arXiv 2502.05252; arXiv 2605.26099, experiment 3).

Needs only NumPy, and `tokenizers` if a task names a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from datagen.checks import require_whole
from datagen.gsm.distractors import Distractors
from datagen.gsm.graph import Core, sample_core
from datagen.gsm.piece_encoder import PieceEncoder, encoder_of
from datagen.gsm.problem import Problem, write_solution
from datagen.gsm.quantity import Statement
from datagen.gsm.text import PROMPT, write_question, write_sentence
from datagen.gsm.themes import THEMES
from datagen.gsm.wording import GsmWording, Imported
from datagen.rng import Rng
from datagen.rows import Rows
from datagen.task import Task, random_stream
from datagen.vocabulary import Vocabulary
from datagen.wording import Wording

MAX_OPERATIONS = 16
MAX_TOKENS = 8192  # up to here there are enough names
WINDOW_STEP = 8  # no answer token has a position that is a multiple of it


class Sample(NamedTuple):
    problem: Problem
    tokens: list[int]
    answer_length: int  # the answer is the last answer_length tokens


@dataclass(frozen=True)
class Gsm(GsmWording, Task):
    """A row is a question, the sentences of the problem in random order, "Answer:", and the answer.

    operations  (fewest, most), 1..16: in-edges of the quantities that the answer depends on; the depth of the answer.
    tokens      (shortest, longest), up to 8192: the length of a row, answer included.
    hard        adds averages, "average number of ... per ...", and the grand totals computed from them.
    tokenizer   a tokenizer.json, or a directory with one; None makes each word and each number one token.

    Theme, mode (forward, reverse) and the number of operations are uniform. Distractors fill the text up to a uniformly
    drawn length; the row exceeds that length by less than a sentence.

    No output crosses the end of a window, so an answer token may not be the first token of a window. In the generated
    rows it never is, provided that windows have a multiple of 8 tokens (512, 1000, 2000, ...) and the first one starts
    with the row. With other windows the caller pads the offending rows on the left, or drops them.

    Splits are drawn independently: even the shortest rows contain so many names that two equal rows never occur.
    """

    operations: tuple[int, int] = (1, 8)
    tokens: tuple[int, int] = (2000, 3300)
    hard: bool = False
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        for name, most in (("operations", MAX_OPERATIONS), ("tokens", MAX_TOKENS)):
            object.__setattr__(self, name, _checked_range(name, getattr(self, name), most))
        if type(self.hard) is not bool:
            raise ValueError(f"hard must be a bool, got {self.hard!r:.200}")
        if self.tokenizer is None:
            encoder_of(None).check(self.operations, self.tokens)
        elif type(self.tokenizer) is not str:
            raise ValueError(f"tokenizer must be a path as a str, or None, got {self.tokenizer!r:.200}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return encoder_of(self.tokenizer).vocabulary.tokens

    @property
    def row_length(self) -> int:
        """Tokens in the longest row."""
        return self.tokens[1]

    @property
    def max_depth(self) -> int:
        """Operations."""
        return self.operations[1]

    def check_window(self, window: int) -> None:
        if window % WINDOW_STEP:
            raise ValueError(
                f"window = {window}: must be a multiple of {WINDOW_STEP}, so that no answer begins a window"
            )

    @classmethod
    def wording(cls, config: Mapping[str, Any]) -> Wording:
        return Imported(**config) if "imported_sha256" in config else super().wording(config)

    def samples(self, split: str, seed: int, shard: int) -> Iterator[Sample]:
        """The rows of a shard, without end: a function of (config, split, seed, shard) alone.

        Raises ValueError for a bad split, seed or shard, for a tokenizer that `pretrained` rejects, and for one that
        makes a problem too long for `tokens`.
        """
        encoder = encoder_of(self.tokenizer)
        encoder.check(self.operations, self.tokens)
        # The path of the tokenizer does not affect the rows.
        rng = Rng(random_stream(replace(self, tokenizer=None), split, seed, shard))
        while True:
            core = sample_core(
                rng,
                theme=rng.choice(THEMES),
                operations=rng.between(*self.operations),
                hard=self.hard,
                reverse=rng.below(2) == 1,
            )
            yield self._fill(rng, core, encoder)

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, ragged, each with one answer at its end; ValueError as in `samples`."""
        require_whole("rows", rows, 1, 2**31 - 1)
        return to_rows(islice(self.samples(split, seed, shard), rows), len(self.vocabulary))

    def _fill(self, rng: Rng, core: Core, encoder: PieceEncoder) -> Sample:
        """Add distractors until the row reaches a random length."""
        question = write_question(core.theme, core.asked)
        answer = encoder.encode([f" {core.answer}"])
        ends = encoder.encode(question), [*encoder.encode(PROMPT), *answer]
        sentences = [_sentence(core, statement, encoder) for statement in core.statements]
        length = sum(map(len, ends)) + sum(len(tokens) for _, tokens in sentences)
        target = rng.between(self.tokens[0], self.tokens[1] - encoder.longest_sentence + 1)
        distractors = Distractors(rng, core, self.hard)
        while length < target or not _answerable(length, len(answer)):
            statement, value = distractors.draw()
            text, tokens = _sentence(core, statement, encoder)
            longer = length + len(tokens)
            # Draw the last sentence again if an answer token would be the first of a window.
            if longer < target or _answerable(longer, len(answer)):
                distractors.add(statement, value)
                sentences.append((text, tokens))
                length = longer
        sentences = rng.shuffled(sentences)
        problem = Problem(
            question="".join(question),
            context="".join(text for text, _ in sentences).removeprefix(" "),
            answer=core.answer,
            operations=sum(expression.edges for expression in core.definitions.values()),
            solution=write_solution(core),
            theme=core.theme.name,
            mode="reverse" if core.reverse else "forward",
        )
        tokens = [token for part in (ends[0], *(tokens for _, tokens in sentences), ends[1]) for token in part]
        return Sample(problem, tokens, len(answer))


def encode(problem: Problem, vocabulary: Vocabulary) -> Sample:
    """An imported problem as a row. Raises ValueError if the vocabulary lacks one of its words."""
    answer = vocabulary.encode(problem.completion)
    return Sample(problem, vocabulary.encode(problem.prompt) + answer, len(answer))


def to_rows(samples: Iterable[Sample], vocabulary_size: int) -> Rows:
    """Ragged rows with solutions. Each has one answer, at its end, whose depth is the number of operations."""
    tokens, start, length, depth = list[list[int]](), list[list[int]](), list[list[int]](), list[list[int]]()
    solutions = list[str]()
    # Keep only the solutions: the texts of a shard take more memory than its tokens.
    for sample in samples:
        tokens.append(sample.tokens)
        start.append([len(sample.tokens) - sample.answer_length])
        length.append([sample.answer_length])
        depth.append([sample.problem.operations])
        solutions.append(sample.problem.solution)
    rows = Rows.of(tokens, start, length, depth, dtype=np.uint16 if vocabulary_size <= 2**16 else np.uint32)
    return replace(rows, solution=np.array(solutions, dtype=object))


def _sentence(core: Core, statement: Statement, encoder: PieceEncoder) -> tuple[str, list[int]]:
    pieces = write_sentence(core.theme, statement)
    return "".join(pieces), encoder.encode(pieces)


def _answerable(length: int, answer_length: int) -> bool:
    """Whether no token of an answer at the end of a row has a position that is a multiple of WINDOW_STEP."""
    return (length - 1) % WINDOW_STEP >= answer_length


def _checked_range(name: str, value: object, most: int) -> tuple[int, int]:
    """The range as a tuple (a dataset.json holds a list); ValueError unless 1 <= first <= second <= most."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be a pair of ints, got {value!r:.200}")
    low, high = value
    require_whole(f"{name}[1]", high, 1, most)
    require_whole(f"{name}[0]", low, 1, high)
    return low, high
