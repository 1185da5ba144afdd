"""Rows of a task in memory: their tokens and the positions of their answers. Needs only NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

PAD = -1  # padding in a batch, which the model ignores
PAD_NAME = "<pad>"
COLUMNS = ("tokens", "answer_start", "answer_length", "answer_depth")
TEXT_COLUMNS = ("solution", "kind")  # which a dataset may have, as it may have traces
TRACES = "traces"
NO_LABEL = -1  # in traces
ALL = slice(None)

Index = slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]
Lists = Sequence[Sequence[int]]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ragged:
    """n lists of any lengths: list i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: npt.NDArray[Any]  # [offsets[-1]]
    offsets: Int64  # [n + 1], from 0

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values):
            raise ValueError(f"offsets must run from 0 to the {len(self.values)} values, got {self.offsets}")

    @classmethod
    def of(cls, values: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Ragged:
        """Split `values` into consecutive lists; lengths: integers [n]."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> Int64:
        """Length of each list, int64 [n]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: Index) -> Ragged:
        """Copies of the lists that a slice, an index array or a boolean mask selects."""
        starts = self.offsets[:-1][index]
        lengths = self.offsets[1:][index] - starts
        shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return Ragged.of(self.values[np.arange(len(shift)) + shift], lengths)

    def padded(self, fill: int) -> Int64:
        """int64 [n, longest], each list filled up with `fill` on the right."""
        inside = np.arange(self.lengths.max(initial=0)) < self.lengths[:, None]
        dense = np.full(inside.shape, fill, dtype=np.int64)
        dense[inside] = self.values
        return dense

    def tolist(self) -> list[list[int]]:
        return [part.tolist() for part in np.split(self.values, self.offsets[1:-1])] if len(self) else []


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows of tokens with their answers: four arrays if every row has T tokens and A answers, else four Ragged.

    Answer a of row i is ``tokens[i][start : start + length]`` with ``start = answer_start[i][a]`` and ``length =
    answer_length[i][a]``; its depth is ``answer_depth[i][a]`` (Rule 110: steps; Depo: hops; GSM: operations; Recall:
    windows; Facts: distance). `pad` is the token id of left padding, or None if rows have no padding. `solution` is one
    text per row for people to read; models never see it. `kind` is one text per row, for parts of an evaluation: "" for
    rows of no kind.

    `traces` says what the model should have worked out after each pass of a sleep. Row i, of T tokens, has P traces of
    T labels each, one after the other: label ``traces[i][p * T + t]`` is the token that the readout at token t should
    give after trace p's pass, or NO_LABEL. P may differ between rows.

    Raises ValueError if the shapes of the columns do not agree.
    """

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32] | Ragged  # [n, T]
    answer_start: npt.NDArray[np.int32] | Ragged  # [n, A]
    answer_length: npt.NDArray[np.int32] | Ragged  # [n, A]
    answer_depth: npt.NDArray[np.int32] | Ragged  # [n, A]
    pad: int | None = None
    solution: npt.NDArray[np.object_] | None = None  # [n]
    kind: npt.NDArray[np.object_] | None = None  # [n]
    traces: Ragged | None = None  # int32, [n, P * T]

    def __post_init__(self) -> None:
        tokens, *answers = columns = [getattr(self, name) for name in COLUMNS]
        if len({isinstance(column, Ragged) for column in columns}) == 2:
            raise ValueError("tokens and every answer_* must all be arrays, or all of them Ragged")
        if isinstance(tokens, Ragged):
            alike = all(np.array_equal(column.offsets, answers[0].offsets) for column in answers)
        else:
            alike = tokens.ndim == answers[0].ndim == 2 and len({column.shape for column in answers}) == 1
        if not alike or len(answers[0]) != len(tokens):
            shapes = {name: getattr(column, "shape", len(column)) for name, column in self.columns().items()}
            raise ValueError(f"tokens must be [n, T] and every answer_* [n, A] with the same n and A, got {shapes}")
        for name in TEXT_COLUMNS:
            texts = getattr(self, name)
            if texts is not None and texts.shape != (len(tokens),):
                raise ValueError(f"{name} must be [{len(tokens)}], one text per row, got {texts.shape}")
        if self.traces is not None:
            self._check_traces(self.traces)

    def _check_traces(self, traces: Ragged) -> None:
        if len(traces) != len(self):
            raise ValueError(f"traces must be [{len(self)}], one list per row, got {len(traces)}")
        if (uneven := uneven_traces(traces.lengths, self.lengths)).any():
            row = int(uneven.argmax())
            raise ValueError(
                f"row {row} has {traces.lengths[row]} labels in its traces: must be a multiple of its "
                f"{self.lengths[row]} tokens, a label for each token in each trace"
            )

    @classmethod
    def of(
        cls,
        tokens: Lists,
        answer_start: Lists,
        answer_length: Lists,
        answer_depth: Lists,
        pad: int | None = None,
        dtype: type[np.uint16] | type[np.uint32] = np.uint16,
        traces: Lists | None = None,
    ) -> Rows:
        """Ragged rows from lists, one per row. dtype: of the tokens; uint32 for a vocabulary above 65,536 entries.

        Raises OverflowError if dtype cannot hold a token, and ValueError if an answer lies outside its row.
        """
        for row, (words, starts, lengths) in enumerate(zip(tokens, answer_start, answer_length, strict=True)):
            for start, length in zip(starts, lengths, strict=True):
                if start < 0 or length < 1 or start + length > len(words):
                    raise ValueError(
                        f"row {row}: an answer must span at least 1 of the row's {len(words)} tokens, "
                        f"got start {start}, length {length}"
                    )
        answers = [_ragged(column, np.int32) for column in (answer_start, answer_length, answer_depth)]
        found = None if traces is None else _ragged(traces, np.int32)
        return cls(_ragged(tokens, dtype), answers[0], answers[1], answers[2], pad, traces=found)

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Concatenate the rows of all parts, without solutions and kinds. All parts must be rows of one task."""
        first, *others = parts
        if not others:
            return first
        columns = {name: _joined([part.columns()[name] for part in parts]) for name in first.columns()}
        return cls(**columns, pad=first.pad)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Index) -> Rows:
        """The rows that a slice (views of arrays, copies of Ragged), an index array or a mask (copies) selects."""
        columns = {**self.columns(), **self.texts()}
        return Rows(**{name: column[index] for name, column in columns.items()}, pad=self.pad)

    @property
    def lengths(self) -> Int64:
        """Tokens in each row, left padding included, int64 [n]."""
        if isinstance(self.tokens, Ragged):
            return self.tokens.lengths
        return np.broadcast_to(np.int64(self.tokens.shape[1]), len(self))

    @property
    def pads(self) -> Int64:
        """Pad tokens on the left of each row, int64 [n]."""
        if self.pad is None:
            return np.zeros(len(self), np.int64)
        real = _padded(self.tokens, self.pad) != self.pad
        before: Int64 = np.where(real.any(axis=1), real.argmax(axis=1), self.lengths)
        return before

    @property
    def asked(self) -> npt.NDArray[np.bool_]:
        """Whether each row has an answer, bool [n]."""
        asked: npt.NDArray[np.bool_] = _padded(self.answer_length, 0).max(axis=1, initial=0) > 0
        return asked

    @property
    def depths(self) -> Int64:
        """Greatest depth among each row's answers, int64 [n]."""
        deepest: Int64 = _padded(self.answer_depth, 0).max(axis=1, initial=0)
        return deepest

    def batch(self, index: Index = ALL) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """Tokens int64 [B, T] and loss mask bool [B, T] of the selected rows, as a model takes them.

        T is the length of the longest of them. Shorter rows are filled with PAD on the right, and `pad` becomes PAD.
        """
        rows = self[index]
        tokens = _padded(rows.tokens, PAD)
        if self.pad is not None:
            tokens[tokens == self.pad] = PAD
        return tokens, rows._mask()

    def loss_mask(self, index: Index = ALL) -> npt.NDArray[np.bool_]:
        """True where a token belongs to any answer, bool [B, T] as in `batch`."""
        return self[index]._mask()

    def _mask(self) -> npt.NDArray[np.bool_]:
        position = np.arange(self.lengths.max(initial=0))
        mask: npt.NDArray[np.bool_] = np.zeros((len(self), len(position)), dtype=np.bool_)
        starts, lengths, _ = self.answers()
        for start, length in zip(starts.T[..., None], lengths.T[..., None], strict=True):
            mask |= (position >= start) & (position < start + length)
        return mask

    def answers(self) -> tuple[Int64, Int64, Int64]:
        """Start, length and depth of the answers, int64 [n, A]; zeros where a row has fewer than A answers."""
        return _padded(self.answer_start, 0), _padded(self.answer_length, 0), _padded(self.answer_depth, 0)

    def trace_batch(self, index: Index = ALL) -> Int64 | None:
        """The traces of the selected rows, int64 [B, P, T], with T as in `batch`; None without traces.

        P is the greatest of these rows. NO_LABEL fills up rows with fewer traces or tokens.
        """
        rows = self[index]
        if rows.traces is None:
            return None
        traces, width = rows.traces, rows.lengths
        of_row = np.repeat(np.arange(len(rows)), traces.lengths)
        column = np.arange(len(of_row)) - np.repeat(traces.offsets[:-1], traces.lengths)
        shape = (len(rows), rows.trace_counts.max(initial=0), width.max(initial=0))
        found = np.full(shape, NO_LABEL, dtype=np.int64)
        found[of_row, column // width[of_row], column % width[of_row]] = traces.values
        return found

    @property
    def trace_counts(self) -> Int64:
        """Traces of each row, P, int64 [n]."""
        if self.traces is None:
            return np.zeros(len(self), np.int64)
        counts: Int64 = self.traces.lengths // np.maximum(self.lengths, 1)
        return counts

    def columns(self) -> dict[str, Any]:
        """Column name -> array or Ragged, in the dataset's column order, without texts."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        return columns if self.traces is None else {**columns, TRACES: self.traces}

    def texts(self) -> dict[str, npt.NDArray[np.object_]]:
        """The columns of texts that there are, by name, in the dataset's order."""
        return {name: getattr(self, name) for name in TEXT_COLUMNS if getattr(self, name) is not None}


def uneven_traces(labels: Int64, tokens: Int64) -> npt.NDArray[np.bool_]:
    """Whether rows with so many labels in their traces have not one for each token in each trace: bool [n]."""
    left: Int64 = np.where(tokens > 0, labels % np.maximum(tokens, 1), labels)
    return left > 0


def pad_id(vocabulary: Sequence[str]) -> int | None:
    """The token id of PAD_NAME, which may only be a vocabulary's last entry; None if it is not."""
    return len(vocabulary) - 1 if list(vocabulary[-1:]) == [PAD_NAME] else None


def _ragged(lists: Lists, dtype: type[np.generic]) -> Ragged:
    values = np.array([value for part in lists for value in part], dtype=dtype)
    return Ragged.of(values, np.array([len(part) for part in lists], dtype=np.int64))


def _joined(columns: list[Any]) -> Any:
    if isinstance(columns[0], Ragged):
        return Ragged.of(np.concatenate([c.values for c in columns]), np.concatenate([c.lengths for c in columns]))
    return np.concatenate(columns)


def _padded(column: npt.NDArray[Any] | Ragged, fill: int) -> Int64:
    """int64 [n, longest], filled up with `fill` on the right; always a copy."""
    return column.padded(fill) if isinstance(column, Ragged) else column.astype(np.int64)
