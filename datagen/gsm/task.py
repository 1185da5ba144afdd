"""Long grade-school math problems in the style of GSM-Infinite (arXiv 2502.05252; arXiv 2605.26099, experiment 3).

Needs only NumPy, and `tokenizers` if a task names a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from datagen.canonical import added_later
from datagen.checks import require, require_bool, require_one_of, require_whole
from datagen.gsm.distractors import SHAPES, Distractors
from datagen.gsm.encoder import ProblemEncoder, encoder_of
from datagen.gsm.graph import MAX_NUMBER, Core, sample_core
from datagen.gsm.problem import Problem, write_solution
from datagen.gsm.quantity import Statement
from datagen.gsm.text import PROMPT, write_question, write_sentence
from datagen.gsm.themes import NAMES, THEMES, themes_of
from datagen.gsm.traces import Known, known_numbers, labels_of
from datagen.gsm.wording import GsmWording, Imported
from datagen.rng import Rng
from datagen.rows import PAD_NAME, Ragged, Rows, pad_id
from datagen.task import Task, random_stream
from datagen.vocabulary import Vocabulary
from datagen.wording import Wording

MAX_OPERATIONS = 16
MAX_TOKENS = 8192  # up to here there are enough names
MAX_STATED = 20  # of cores of 16 operations, three in five then have a value above MAX_VALUE and are drawn again
WINDOW_STEP = 8  # no answer token has a position that is a multiple of it


class Sample(NamedTuple):
    problem: Problem
    tokens: list[int]
    answer_length: int  # the answer is the last answer_length tokens
    known: tuple[Known, ...] = ()  # in a traced task


class Sentence(NamedTuple):
    statement: Statement
    text: str
    tokens: list[int]


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

    The other fields differ from the official problems, or add to them.

    numbers      2..20, the greatest number that the text states of a quantity, but for the result that a reverse
                 problem states, and the greatest constant.
    distractors  "official": their sentences are about as in the official problems, with up to three quantities on the
                 right; "short": three of five state a number, the others have one quantity on the right, with or
                 without a constant. Texts then state more numbers, so that the answer is seldom the most frequent one.
    reverse      whether half of the problems are reverse.
    theme        null, or the name of the only theme: "crazy_zootopia", "movie_festival_awards", "teachers_in_school".
    names        how many things, and how many places, of a theme occur; up to 32.
    traced       whether training rows have traces: the number of each quantity, distractors included, at the full
                 stop of its sentence, and the answer at the question mark. A number is there from the pass on after
                 which it can be known: one that is stated from the first, one that is computed from the next after
                 those of all its operands, and the answer from the next after that of its quantity. A total takes a
                 pass too, though no sentence defines it. What depends on the unknown of a reverse problem has no label.
                 A row of k operations has k + 1 traces, enough for the answer. All contexts have pads on their left up
                 to tokens[1] - 3 tokens, which fill one window: a token cannot know what depends on a later window. A
                 label is one token, so there may be no tokenizer, which writes numbers in several.
    """

    operations: tuple[int, int] = (1, 8)
    tokens: tuple[int, int] = (2000, 3300)
    hard: bool = False
    tokenizer: str | None = None
    numbers: int = added_later(MAX_NUMBER)
    distractors: Literal["official", "short"] = added_later("official")
    reverse: bool = added_later(True)
    theme: str | None = added_later(None)
    names: int = added_later(NAMES)
    traced: bool = added_later(False)

    def __post_init__(self) -> None:
        for name, most in (("operations", MAX_OPERATIONS), ("tokens", MAX_TOKENS)):
            object.__setattr__(self, name, _checked_range(name, getattr(self, name), most))
        require_bool("hard", self.hard)
        require_whole("numbers", self.numbers, 2, MAX_STATED)
        require_one_of("distractors", self.distractors, tuple(SHAPES))
        if self.theme is not None:
            require_one_of("theme", self.theme, tuple(theme.name for theme in THEMES))
        self._check_names()
        for name in ("reverse", "traced"):
            require_bool(name, getattr(self, name))
        allowed = "false with a tokenizer: a label is one token, and it may write a number in several"
        require(self.tokenizer is None or not self.traced, "traced", self.traced, allowed)
        if self.tokenizer is None:
            self._longest_target(encoder_of(None))
        elif type(self.tokenizer) is not str:
            raise ValueError(f"tokenizer must be a path as a str, or None, got {self.tokenizer!r:.200}")

    def _check_names(self) -> None:
        """Raise ValueError unless there are always names for another core quantity, and another distractor."""
        require_whole("names", self.names, 1, NAMES)
        most = self.operations[1]
        sentences = self.tokens[1] // 8  # more than there are: each has more than eight tokens
        # each core quantity may take a place of its own, in which no number may be added
        fitting = next((n for n in range(most + 1, NAMES) if n * (n - most) - most > sentences), NAMES)
        allowed = f"at least {fitting}, so that problems of {most} operations in {self.tokens[1]} tokens have enough"
        require(self.names >= fitting, "names", self.names, allowed)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        words = encoder_of(self.tokenizer).vocabulary.tokens
        return (*words, PAD_NAME) if self.traced else words

    @property
    def row_length(self) -> int:
        """Tokens in the longest row."""
        return self.tokens[1]

    @property
    def max_depth(self) -> int:
        """Operations."""
        return self.operations[1]

    @property
    def context_length(self) -> int | None:
        """Tokens before "Answer:", if pads make them as many in all rows."""
        return self.tokens[1] - len(PROMPT) - 1 if self.traced else None

    @property
    def trace_labels(self) -> int:
        return (self.operations[1] + 1) * self.row_length if self.traced else 0

    def check_window(self, window: int) -> None:
        if self.traced:
            allowed = f"the whole context of {self.context_length} tokens, as no token knows what a later window states"
            return require(window == self.context_length, "window", window, allowed)
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
        longest = self._longest_target(encoder)
        themes = themes_of(self.theme, self.names)
        # The path of the tokenizer does not affect the rows.
        rng = Rng(random_stream(replace(self, tokenizer=None), split, seed, shard))
        while True:
            core = sample_core(
                rng,
                theme=rng.choice(themes),
                operations=rng.between(*self.operations),
                hard=self.hard,
                reverse=self.reverse and rng.below(2) == 1,
                numbers=self.numbers,
            )
            yield self._fill(rng, core, encoder, longest)

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, ragged, each with one answer at its end; ValueError as in `samples`."""
        require_whole("rows", rows, 1, 2**31 - 1)
        samples = islice(self.samples(split, seed, shard), rows)
        return to_rows(samples, len(self.vocabulary), pad_id(self.vocabulary), self.traced and split == "train")

    def _longest_target(self, encoder: ProblemEncoder) -> int:
        """The greatest length at which a last sentence still fits. Raises ValueError if `tokens` are too few."""
        sentence = encoder.longest_sentence(self.distractors, self.numbers)
        encoder.check(self.operations, self.tokens, sentence)
        return self.tokens[1] - sentence + 1

    def _fill(self, rng: Rng, core: Core, encoder: ProblemEncoder, longest: int) -> Sample:
        """Add distractors until the row reaches a random length, `longest` at most."""
        question = write_question(core.theme, core.asked)
        answer = encoder.encode([f" {core.answer}"])
        ends = encoder.encode(question), [*encoder.encode(PROMPT), *answer]
        sentences = [_sentence(core, statement, encoder) for statement in core.statements]
        length = sum(map(len, ends)) + sum(len(sentence.tokens) for sentence in sentences)
        target = rng.between(self.tokens[0], longest)
        distractors = Distractors(rng, core, self.hard, self.distractors, self.numbers)
        while length < target or not _answerable(length, len(answer)):
            statement, value = distractors.draw()
            sentence = _sentence(core, statement, encoder)
            longer = length + len(sentence.tokens)
            # Draw the last sentence again if an answer token would be the first of a window.
            if longer < target or _answerable(longer, len(answer)):
                distractors.add(statement, value)
                sentences.append(sentence)
                length = longer
        sentences = rng.shuffled(sentences)
        problem = Problem(
            question="".join(question),
            context="".join(sentence.text for sentence in sentences).removeprefix(" "),
            answer=core.answer,
            operations=sum(expression.edges for expression in core.definitions.values()),
            solution=write_solution(core),
            theme=core.theme.name,
            mode="reverse" if core.reverse else "forward",
        )
        context = [token for part in (ends[0], *(sentence.tokens for sentence in sentences)) for token in part]
        if not self.traced:
            return Sample(problem, context + ends[1], len(answer))
        pads = [len(encoder.vocabulary.tokens)] * (self.tokens[1] - len(context) - len(ends[1]))
        lengths = (len(ends[0]), *(len(sentence.tokens) for sentence in sentences))
        asked, *stops = (len(pads) + end - 1 for end in accumulate(lengths))
        stated = zip(stops, (sentence.statement for sentence in sentences), strict=True)
        known = (
            each._replace(number=encoder.encode([f" {each.number}"])[0])
            for each in known_numbers(core, distractors, asked, stated)
        )
        return Sample(problem, pads + context + ends[1], len(answer), tuple(known))


def encode(problem: Problem, vocabulary: Vocabulary) -> Sample:
    """An imported problem as a row. Raises ValueError if the vocabulary lacks one of its words."""
    answer = vocabulary.encode(problem.completion)
    return Sample(problem, vocabulary.encode(problem.prompt) + answer, len(answer))


def to_rows(samples: Iterable[Sample], vocabulary_size: int, pad: int | None = None, traced: bool = False) -> Rows:
    """Ragged rows with solutions. Each has one answer, at its end, whose depth is the number of operations.

    pad: as in Rows; traced: whether the rows have traces.
    """
    tokens, start, length, depth = list[list[int]](), list[list[int]](), list[list[int]](), list[list[int]]()
    solutions, traces = list[str](), list[npt.NDArray[np.int32]]()
    # Keep only the solutions: the texts of a shard take more memory than its tokens.
    for sample in samples:
        tokens.append(sample.tokens)
        start.append([len(sample.tokens) - sample.answer_length])
        length.append([sample.answer_length])
        depth.append([sample.problem.operations])
        solutions.append(sample.problem.solution)
        if traced:
            traces.append(labels_of(sample.known, sample.problem.operations + 1, len(sample.tokens)))
    rows = Rows.of(tokens, start, length, depth, pad, np.uint16 if vocabulary_size <= 2**16 else np.uint32)
    labels = Ragged.of(np.concatenate(traces), np.array([len(each) for each in traces])) if traces else None
    return replace(rows, solution=np.array(solutions, dtype=object), traces=labels)


def _sentence(core: Core, statement: Statement, encoder: ProblemEncoder) -> Sentence:
    pieces = write_sentence(core.theme, statement)
    return Sentence(statement, "".join(pieces), encoder.encode(pieces))


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
