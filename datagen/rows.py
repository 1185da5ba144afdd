"""Rows of a task in memory: tokens and where their answers stand. Needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

Index = slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rows:
    """n rows of T tokens with A answers each.

    Answer a of row i is ``tokens[i, start : start + length]``, asked at ``answer_depth[i, a]`` (Rule 110: steps).
    """

    tokens: npt.NDArray[np.uint16] | npt.NDArray[np.uint32]  # [n, T]
    answer_start: npt.NDArray[np.int32]  # [n, A]
    answer_length: npt.NDArray[np.int32]  # [n, A]
    answer_depth: npt.NDArray[np.int32]  # [n, A]

    def __post_init__(self) -> None:
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        answers = {shape for name, shape in shapes.items() if name != "tokens"}
        if self.tokens.ndim != 2 or len(answers) != 1 or self.answer_start.shape[:-1] != (len(self.tokens),):
            raise ValueError(f"tokens must be [n, T] and every answer_* [n, A] with the same n and A, got {shapes}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Index) -> Rows:
        """The rows of a slice (views), of an index array or of a boolean mask (copies)."""
        return Rows(self.tokens[index], self.answer_start[index], self.answer_length[index], self.answer_depth[index])

    def loss_mask(self, index: Index | None = None) -> npt.NDArray[np.bool_]:
        """Which tokens belong to an answer, bool [n, T]: the union of the answers, of all rows or of those indexed."""
        rows = self if index is None else self[index]
        position = np.arange(rows.tokens.shape[1])
        mask: npt.NDArray[np.bool_] = np.zeros(rows.tokens.shape, dtype=np.bool_)
        for start, length in zip(rows.answer_start.T[..., None], rows.answer_length.T[..., None], strict=True):
            mask |= (position >= start) & (position < start + length)
        return mask

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Name -> array, in the order of the dataset's columns."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
