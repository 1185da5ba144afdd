"""Measure how many cells of `rule110-iterated` are right when each is guessed from the right cells before it.

    python -m benchmarks.evidence.unread

The guess does not read the state: it is the most frequent next cell after these cells, in as many rows as a training
reads. This is a floor for the accuracy of cells, which a model predicts with the right cells before them. Writes
benchmarks/results/evidence/unread.json, fills the `unread` table of docs/iterated-sleep.md, and draws the floor below
the published results of the main variants: benchmarks/results/evidence/iterated-sleep.png.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.arguments import command_parser
from benchmarks.evidence.experiments import EXPERIMENTS, results_of
from benchmarks.evidence.pages import ITERATED_SLEEP, fill
from benchmarks.evidence.publish import published_variants
from benchmarks.results_file import ROOT, read_result, write_result
from datagen import Rule110
from pipelines.config.presets import PRESETS
from pipelines.reporting import plots
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.markdown import markdown_table

SHOWN = ("iterated", "hidden", "untraced", "one-pass", "one-pass-far")
TOLD = ("iterated", "one-pass-far")  # of which the title speaks


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


def draw(variants: Sequence[VariantResults], style: plots.Styles, floor: Mapping[int, float], path: Path) -> None:
    """The cells right by t: the mean over seeds with its interval, and the floor."""
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    for variant in variants:
        label = f"{variant.name}, {len(variant.results)} seeds"
        layer = len(TOLD) - TOLD.index(variant.name) if variant.name in TOLD else 0
        plots.curve(axes, variant.answers, style[variant.name], label, layer)
    axes.plot(list(floor), list(floor.values()), "--", color="grey", label="without reading the state")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(floor), list(map(str, floor)))
    axes.set_xlabel("t, steps of Rule 110; training has t <= 4 with passes, t <= 12 in one")
    axes.set_ylabel("share of cells right, with its 95 % interval")
    axes.grid(axis="y", alpha=0.3)
    plots.legend(figure, len(variants) + 1)
    plots.write(figure, "A learned pass, repeated, solves t = 256; one pass stops early", path)


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


def redraw(picture: Path = ROOT / "results" / "evidence" / "iterated-sleep.png") -> Path:
    """Draw the published floor and variants again, each variant in its style in the pictures of the report, or in that
    of one that is not drawn here."""
    shares = read_result("evidence/unread")["shares"]
    variants = {variant.name: variant for variant in published_variants(results_of("iterated"))}
    style = plots.styles([name for name in variants if name in EXPERIMENTS["iterated"].shown])
    spare = iter(look for name, look in style.items() if name not in SHOWN)
    style |= {name: next(spare) for name in SHOWN if name not in style}
    draw([variants[name] for name in SHOWN], style, {int(t): share for t, share in shares.items()}, picture)
    return picture


if __name__ == "__main__":
    command_parser("evidence.unread", __doc__).parse_args()
    main()
