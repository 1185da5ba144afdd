"""Measure how many cells of `rule110-iterated` are right when each is guessed from the right cells before it.

    python -m benchmarks.evidence.unread

The guess does not read the state: it is the most frequent next cell after these cells, in as many rows as a training
reads. This is a floor for the accuracy of cells, which a model predicts with the right cells before them. Writes
benchmarks/results/evidence/unread.json and fills the `unread` table of docs/iterated-sleep.md.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.evidence.pages import ITERATED_SLEEP, fill
from benchmarks.results_file import write_result
from datagen import Rule110
from pipelines.config.presets import PRESETS
from pipelines.reporting.markdown import markdown_table


def unread(task: Rule110, seed: int, known_rows: int, test_rows: int) -> float:
    """The share of the cells of test rows right. The task asks for all cells of one state after one number of steps."""
    known, asked = (
        task.sample(split, seed, 0, rows).tokens[:, task.context_length + 1 :].astype(np.int64)
        for split, rows in (("train", known_rows), ("test", test_rows))
    )
    right = []
    for p in range(task.cells):
        before = 1 << np.arange(p)
        found = known[:, :p] @ before
        ones = np.bincount(found, known[:, p] - 0.5, minlength=1 << p)
        guess = np.where(ones == 0, known[:, p].mean() > 0.5, ones > 0)
        right.append((guess[asked[:, :p] @ before] == asked[:, p]).mean())
    return float(np.mean(right))


def main(page: Path = ITERATED_SLEEP) -> None:
    experiment = PRESETS["rule110-iterated"]
    task, data = experiment.task, experiment.data
    assert isinstance(task, Rule110)
    floor = {
        t: unread(
            replace(task, steps=t, shallowest=None, traced=False, test_steps=()),
            data.seed,
            experiment.train_rows(),
            data.test_rows,
        )
        for t in task.test_steps
    }
    print(f"results {write_result('evidence/unread', {'preset': experiment.name, 'shares': floor})}")
    shares = [f"{share:.3f}" for share in floor.values()]
    fill(page, {"unread": markdown_table(["t", *map(str, floor)], [["cells right", *shares]])})
    print(f"page    {page}")


if __name__ == "__main__":
    main()
