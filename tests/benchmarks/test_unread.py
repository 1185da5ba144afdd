"""The floor of cells that are guessed without reading the state."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.evidence.unread import unread
from datagen import Rule110


@pytest.mark.parametrize("t", [0, 3])
def test_the_floor_of_cells_goes_by_the_answers_before_alone(t: int) -> None:
    """The same rows, looked up by the tuple of the answers before each cell."""
    task = Rule110(cells=20, states=1, steps=t, labels="all", frame=1)
    known, asked = (
        task.sample(split, 5, 0, rows).tokens[:, 22:].tolist() for split, rows in (("train", 6400), ("test", 1000))
    )
    met = Counter(tuple(row[: p + 1]) for row in known for p in range(20))
    ones = [sum(row[p] for row in known) > len(known) / 2 for p in range(20)]
    right = 0
    for row in asked:
        for p, cell in enumerate(row):
            zero, one = met[*row[:p], 0], met[*row[:p], 1]
            right += cell == (ones[p] if zero == one else one > zero)
    assert unread(task, 5, 6400, 1000) == pytest.approx(right / (1000 * 20), abs=1e-12)
    if not t:
        assert unread(task, 5, 6400, 1000) == pytest.approx(0.5, abs=0.025)  # random cells; seven standard errors
