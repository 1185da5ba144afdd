"""Rule 110 (arXiv 2605.26099, section "Rule 110", figure 2): predict cells of each state after `steps` steps.

Needs only NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from datagen.checks import require_whole
from datagen.rows import PAD_NAME, Rows
from datagen.splits import draw_contexts
from datagen.task import Task, random_stream, raw_words
from datagen.wording import AnsweredQuestion, QuestionText, spoken

QUERY, FRONT = 2, 3  # ids of "?", and of the pad or the first number of steps; cells have ids 0 and 1

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rule110(Task):
    """A row is `states` random states of `cells` cells, then `?`, then the first cell of each after `steps` steps.

    cells       3..4096, cells in a state; the boundary is periodic.
    states      1..64, states in a row.
    steps       0..4096, steps of the automaton; the depth of the answers.
    shallowest  null, or 0..steps: the steps of each row are drawn uniformly from shallowest..steps, and the row begins
                with a token that states their number.
    labels      "first": the first cell of each state, as in the paper; "all": every cell of every state. With "all" the
                context is as long as `?` with the labels, so that each fills one window; for that, the row begins with
                a pad if it does not begin with the number of steps.

    No two splits share a context, whatever their seeds. Up to 40 bits (cells * states) a hash assigns each context to
    one split, about 1/8 to test and 1/8 to validation. Above 40 bits contexts are drawn independently, as collisions
    are negligible: of 10 million train rows, 41 bits let one test row in 200,000 recur in train, 96 bits none.
    """

    cells: int = 24
    states: int = 4
    steps: int = 32
    shallowest: int | None = None
    labels: Literal["first", "all"] = "first"

    def __post_init__(self) -> None:
        require_whole("cells", self.cells, 3, 4096)
        require_whole("states", self.states, 1, 64)
        require_whole("steps", self.steps, 0, 4096)
        if self.shallowest is not None:
            require_whole("shallowest", self.shallowest, 0, self.steps)
        if self.labels not in ("first", "all"):
            raise ValueError(f"labels must be 'first' or 'all', got {self.labels!r:.200}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        steps = () if self.shallowest is None else tuple(f"t{t}" for t in range(self.shallowest, self.steps + 1))
        return ("0", "1", "?", *steps, *([PAD_NAME] if self._padded else []))

    @property
    def _padded(self) -> bool:
        return self.labels == "all" and self.shallowest is None

    @property
    def asked(self) -> int:
        """Cells of each state that a row asks for."""
        return self.cells if self.labels == "all" else 1

    @property
    def context_length(self) -> int:
        """Tokens before the query token: the states, and the pad or the number of steps before them, if any."""
        return self.cells * self.states + (self.labels == "all" or self.shallowest is not None)

    @property
    def row_length(self) -> int:
        """Tokens in each row: the context, `?` and the labels."""
        return self.context_length + 1 + self.states * self.asked

    @property
    def max_depth(self) -> int:
        """Steps of the automaton."""
        return self.steps

    def with_depth(self, depth: int) -> Rule110:
        """The same states after another number of steps."""
        return replace(self, steps=depth)

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The state, and the cell that is asked for."""
        # A row asks for the same number of cells of each state, in one answer or several, state by state.
        state, part = divmod(asked.number, len(asked.starts) // self.states)
        first = part * asked.length + 1
        cell = f"Cell {first}" if asked.length == 1 else f"Cells {first} to {first + asked.length - 1}"
        which = f"State {state + 1} of {self.states}: " if self.states > 1 else ""
        # A pad may precede the states; `?` follows them.
        start = asked.starts[0] - 1 - (self.states - state) * self.cells
        read = "".join(asked.words[start : start + self.cells])
        problem = f"{which}{read}. {cell} after {asked.depth} steps?"
        return QuestionText(problem, spoken(asked.right), spoken(asked.given))

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, a function of (config, split, seed, shard) alone.

        split is train, validation or test; seed and shard are 0 or more, rows 1 or more; else ValueError.
        Returns tokens uint16 [rows, row_length] and one answer of one token for each requested cell, state by state:
        answer_* int32 [rows, states * asked].
        """
        stream = random_stream(self, split, seed, shard)
        require_whole("rows", rows, 1, 2**31 - 1)
        depth = self._depths(random_stream(self, split, seed, shard), rows)
        bits = self.cells * self.states
        context = draw_contexts(split, stream, rows, bits)
        answers = np.arange(self.context_length + 1, self.row_length, dtype=np.int32)
        tokens = np.empty((rows, self.row_length), dtype=np.uint16)
        least = self.steps if self.shallowest is None else self.shallowest
        tokens[:, : self.context_length - bits] = FRONT + depth[:, None] - least
        tokens[:, self.context_length - bits : self.context_length] = context
        tokens[:, self.context_length] = QUERY
        for steps in np.unique(depth):
            which = depth == steps
            labels = evolved(context[which].reshape(-1, self.cells), int(steps), self.asked)
            tokens[which, self.context_length + 1 :] = labels.reshape(-1, len(answers))
        shape = (rows, len(answers))
        return Rows(
            tokens=tokens,
            answer_start=np.tile(answers, (rows, 1)),
            answer_length=np.ones(shape, dtype=np.int32),
            answer_depth=np.broadcast_to(depth[:, None], shape).copy(),
            pad=FRONT if self._padded else None,
        )

    def _depths(self, stream: np.random.Philox, rows: int) -> npt.NDArray[np.int32]:
        """Steps of each row, int32 [rows]."""
        if self.shallowest is None:
            return np.full(rows, self.steps, dtype=np.int32)
        # jumped: words that the contexts never reach
        words = raw_words(stream.jumped(), rows)
        return (self.shallowest + words % np.uint64(self.steps - self.shallowest + 1)).astype(np.int32)


def evolved(states: UInt8, steps: int, asked: int) -> UInt8:
    """The first `asked` cells of each state after `steps` steps of Rule 110 with a periodic boundary.

    states uint8 [n, cells] of 0 and 1; returns uint8 [n, asked].
    """
    # Eight states share a byte, so one bitwise operation advances all eight: [cells, n / 8].
    centre = np.packbits(states.T, axis=1)
    for _ in range(steps):
        left, right = np.roll(centre, 1, axis=0), np.roll(centre, -1, axis=0)
        centre = (centre | right) & ~(left & centre & right)
    return np.unpackbits(centre[:asked], axis=1, count=len(states)).T
