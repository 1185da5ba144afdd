"""Rule 110 (arXiv 2605.26099, section "Rule 110", figure 2): predict cells of each state after `steps` steps.

Needs only NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from datagen.canonical import added_later
from datagen.checks import require, require_bool, require_one_of, require_whole
from datagen.rows import NO_LABEL, PAD_NAME, Ragged, Rows
from datagen.splits import draw_contexts
from datagen.task import Task, random_stream, raw_words
from datagen.wording import AnsweredQuestion, QuestionText, spoken

QUERY, FRONT = 2, 3  # ids of "?", and of what stands before a state, the first of them; cells have ids 0 and 1
LABELS = ("first", "all", "each")

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rule110(Task):
    """A row is `states` random states of `cells` cells, then `?`, then the first cell of each after `steps` steps.

    cells       3..4096, cells in a state; the boundary is periodic.
    states      1..64, states in a row.
    steps       0..4096, steps of the automaton; the depth of the answers.
    shallowest  null, or 0..steps: the steps of each row are drawn uniformly from shallowest..steps.
    stated      whether the row begins with a token that states its number of steps, if it has a `shallowest`.
    test_steps  steps of the test rows, drawn uniformly, if they are other than in training.
    labels      "first": the first cell of each state, as in the paper; "all": every cell of every state. With "all" the
                context is as long as `?` with the labels, so that each fills one window; for that, the row begins with
                a pad if it does not begin with the number of steps. "each": every cell of every state, with a window
                for each state, and then one for `?` and the labels of each; before each state stands the number of
                steps, or `|`.
    frame       cells by which the labels move to the right with each step: at position p of a state they then stand for
                cell p - frame * steps. Attention is causal, so with a frame of 1 each label depends on cells before it.
    traced      whether training rows have traces: the cells after 1, 2, ... steps, each at the position of the cell
                that its label stands for.

    No two splits share a context, whatever their seeds. Up to 40 bits (cells * states) a hash assigns each context to
    one split, about 1/8 to test and 1/8 to validation. Above 40 bits contexts are drawn independently, as collisions
    are negligible: of 10 million train rows, 41 bits let one test row in 200,000 recur in train, 96 bits none.
    """

    unasked = ("frame", "traced")

    cells: int = 24
    states: int = 4
    steps: int = 32
    shallowest: int | None = None
    labels: Literal["first", "all", "each"] = "first"
    frame: int = added_later(0)
    traced: bool = added_later(False)
    stated: bool = added_later(True)
    test_steps: tuple[int, ...] = added_later(())

    def __post_init__(self) -> None:
        require_whole("cells", self.cells, 3, 4096)
        require_whole("states", self.states, 1, 64)
        require_whole("steps", self.steps, 0, 4096)
        if self.shallowest is not None:
            require_whole("shallowest", self.shallowest, 0, self.steps)
        require_one_of("labels", self.labels, LABELS)
        require_whole("frame", self.frame, 0, 4096)
        for name in ("traced", "stated"):
            require_bool(name, getattr(self, name))
        require(isinstance(self.test_steps, (tuple, list)), "test_steps", self.test_steps, "a list of numbers of steps")
        object.__setattr__(self, "test_steps", tuple(self.test_steps))  # a dataset.json holds a list
        # a number that the rows state must be in the vocabulary, which training rows have taught
        least, most = (self.shallowest or 0, self.steps) if self._states_steps else (0, 4096)
        for steps in self.test_steps:
            require_whole("test_steps", steps, least, most)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        least = self.steps if self.shallowest is None else self.shallowest
        steps = tuple(f"t{t}" for t in range(least, self.steps + 1)) if self._states_steps else ()
        mark = {"first": (), "all": (PAD_NAME,), "each": ("|",)}[self.labels]
        return ("0", "1", "?", *(steps or mark))

    @property
    def _states_steps(self) -> bool:
        return self.stated and self.shallowest is not None

    @property
    def asked(self) -> int:
        """Cells of each state that a row asks for."""
        return 1 if self.labels == "first" else self.cells

    @property
    def _windows(self) -> int:
        """Parts of equal length that the states, and `?` with the labels, are laid out in, if all cells are asked."""
        return self.states if self.labels == "each" else 1

    @property
    def context_length(self) -> int:
        """Tokens before the first query token: the states, and what stands before them, if anything."""
        marks = self._windows if self.labels != "first" or self._states_steps else 0
        return self.cells * self.states + marks

    @property
    def row_length(self) -> int:
        """Tokens in each row: the context, each `?` and the labels."""
        return self.context_length + self._windows + self.states * self.asked

    @property
    def max_depth(self) -> int:
        """Steps of the automaton."""
        return self.steps

    @property
    def trace_labels(self) -> int:
        return self.steps * self.row_length if self.traced else 0

    def with_depth(self, depth: int) -> Rule110:
        """The same states after another number of steps."""
        return replace(self, steps=depth)

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The state, and the cell that is asked for."""
        # A row asks for the same number of cells of each state, in one answer or several, state by state.
        state, part = divmod(asked.number, len(asked.starts) // self.states)
        first, last = (
            (position - self.frame * asked.depth) % self.cells + 1
            for position in (part * asked.length, (part + 1) * asked.length - 1)
        )
        cell = f"Cell {first}" if asked.length == 1 else f"Cells {first} to {last}"
        which = f"State {state + 1} of {self.states}: " if self.states > 1 else ""
        # Something may precede the states, or each of them; `?` follows them.
        marks = int(self.labels == "each")
        start = asked.starts[0] - 1 - (self.states - state) * (marks + self.cells) + marks
        read = "".join(asked.words[start : start + self.cells])
        problem = f"{which}{read}. {cell} after {asked.depth} steps?"
        return QuestionText(problem, spoken(asked.right), spoken(asked.given))

    def check_window(self, window: int) -> None:
        """Also raises ValueError if states that have windows of their own do not fill them."""
        if self.labels != "each":
            return super().check_window(window)
        fits = window == self.cells + 1
        require(fits, "window", window, f"cells + 1 = {self.cells + 1} with labels = each, a window for each state")

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, a function of (config, split, seed, shard) alone.

        split is train, validation or test; seed and shard are 0 or more, rows 1 or more; else ValueError.
        Returns tokens uint16 [rows, row_length] and one answer of one token for each requested cell, state by state:
        answer_* int32 [rows, states * asked].
        """
        stream = random_stream(self, split, seed, shard)
        require_whole("rows", rows, 1, 2**31 - 1)
        depth = self._depths(split, random_stream(self, split, seed, shard), rows)
        context = draw_contexts(split, stream, rows, self.cells * self.states)
        states = context.reshape(-1, self.cells)
        cells = self.cells * self.states // self._windows
        marks, positions = np.split(self._windows_of(0, self.context_length), [-cells], 1)
        queries, answers = np.split(self._windows_of(self.context_length, self.row_length), [1], 1)
        tokens = np.empty((rows, self.row_length), dtype=np.uint16)
        least = self.steps if self.shallowest is None else self.shallowest
        tokens[:, marks.ravel()] = FRONT + (depth[:, None] - least if self._states_steps else 0)
        tokens[:, positions.ravel()] = context
        tokens[:, queries.ravel()] = QUERY
        for steps in np.unique(depth):
            which = depth == steps
            labels = evolved(states[np.repeat(which, self.states)], int(steps), self.asked, self.frame)
            tokens[np.ix_(which, answers.ravel())] = labels.reshape(-1, answers.size)
        shape = (rows, answers.size)
        return Rows(
            tokens=tokens,
            answer_start=np.tile(answers.reshape(1, -1), (rows, 1)),
            answer_length=np.ones(shape, dtype=np.int32),
            answer_depth=np.broadcast_to(depth[:, None], shape).copy(),
            pad=FRONT if self.labels == "all" and not self._states_steps else None,
            traces=self._traces(context, depth, positions.ravel()) if self.traced and split == "train" else None,
        )

    def _windows_of(self, start: int, end: int) -> npt.NDArray[np.int32]:
        """Positions start..end - 1 of a row, int32 [windows, positions of each]."""
        return np.arange(start, end, dtype=np.int32).reshape(self._windows, -1)

    def _depths(self, split: str, stream: np.random.Philox, rows: int) -> npt.NDArray[np.int32]:
        """Steps of each row, int32 [rows]."""
        least = self.steps if self.shallowest is None else self.shallowest
        drawn = (split == "test" and self.test_steps) or range(least, self.steps + 1)
        # jumped: words that the contexts never reach
        words = raw_words(stream.jumped(), rows)
        return np.array(drawn, np.int32)[words % np.uint64(len(drawn))]

    def _traces(self, context: UInt8, depth: npt.NDArray[np.int32], positions: npt.NDArray[np.int32]) -> Ragged:
        """The states of each row after 1, 2, ..., `depth` steps, at the positions of its cells."""
        lengths = depth.astype(np.int64) * self.row_length
        traces = Ragged.of(np.full(lengths.sum(), NO_LABEL, np.int32), lengths)
        states = context.reshape(-1, self.cells)
        for step in range(1, depth.max() + 1):
            states, which = evolved(states, 1, self.cells), depth >= step
            moved = np.roll(states, self.frame * step, axis=1).reshape(context.shape)
            starts = traces.offsets[:-1][which] + (step - 1) * self.row_length
            traces.values[starts[:, None] + positions] = moved[which]
        return traces


def evolved(states: UInt8, steps: int, asked: int, frame: int = 0) -> UInt8:
    """The first `asked` cells of each state after `steps` steps of Rule 110 with a periodic boundary.

    frame: cells by which the state moves to the right with each step.

    states uint8 [n, cells] of 0 and 1; returns uint8 [n, asked].
    """
    # Eight states share a byte, so one bitwise operation advances all eight: [cells, n / 8].
    centre = np.packbits(states.T, axis=1)
    for _ in range(steps):
        left, right = np.roll(centre, 1, axis=0), np.roll(centre, -1, axis=0)
        centre = (centre | right) & ~(left & centre & right)
    moved = np.roll(centre, frame * steps, axis=0) if frame else centre
    return np.unpackbits(moved[:asked], axis=1, count=len(states)).T
