"""Measure how many cells of `rule110-iterated` are right when each is guessed from the right cells before it.

    python -m benchmarks.evidence.unread

The guess does not read the state: it is the most frequent next cell after these cells, in as many rows as a training
reads. This is a floor for the accuracy of cells, which a model predicts with the right cells before them. Writes
benchmarks/results/evidence/unread.json, fills the `unread` table of docs/iterated-sleep.md, and draws the floor below
the published results of the main variants: benchmarks/results/evidence/iterated-sleep.png.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.evidence.pages import ITERATED_SLEEP, fill
from benchmarks.evidence.publish import published_variants
from benchmarks.results_file import ROOT, write_result
from datagen import Rule110
from pipelines.config.presets import PRESETS
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.plots import PALETTE

SHOWN = ("iterated", "hidden", "untraced", "one-pass", "one-pass-far")


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


def draw(variants: Sequence[VariantResults], floor: Mapping[int, float], path: Path) -> None:
    """The cells right by t: the mean over seeds with its interval, and the floor."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for variant, colour in zip(variants, PALETTE, strict=False):
        shares = variant.answers
        low, high = zip(*(share.interval for share in shares.values()), strict=True)
        label = f"{variant.name}, {len(variant.results)} seeds"
        axes.plot(list(shares), [share.value for share in shares.values()], "o-", ms=4, color=colour, label=label)
        axes.fill_between(list(shares), low, high, color=colour, alpha=0.2)
    axes.plot(list(floor), list(floor.values()), "--", color="grey", label="without reading the state")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(floor), list(map(str, floor)))
    axes.set_xlabel("t, steps of Rule 110; training has t <= 4 with passes, t <= 12 in one")
    axes.set_ylabel("share of cells right")
    axes.legend()
    axes.set_title("A learned pass, repeated, solves t = 256; one pass stops early", fontweight="bold")
    figure.savefig(path, dpi=120)
    plt.close(figure)


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
    print(f"picture {redraw()}")


def redraw() -> Path:
    """Draw the published floor and variants again."""
    results = ROOT / "results" / "evidence"
    shares = json.loads((results / "unread.json").read_text())["shares"]
    variants = {variant.name: variant for variant in published_variants(results / "iterated")}
    picture = results / "iterated-sleep.png"
    draw([variants[name] for name in SHOWN], {int(t): share for t, share in shares.items()}, picture)
    return picture


if __name__ == "__main__":
    main()
