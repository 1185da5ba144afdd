"""Iterated sleep on Rule 110: each pass computes one step. Training is at t <= 4, the test runs up to t = 256.

    python -m benchmarks.evidence.moonshot [VARIANT ...] [--root DIR]

trains every variant on its seeds, one process per core, publishes the accuracy by t on held-out states, and fills the
table of docs/iterated-sleep.md. Finished trainings are kept in ROOT/moonshot: you can interrupt the command at any time
and run it again.
With --redraw it trains nothing and draws the picture of the published numbers again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.evidence.iterated import ASKED, VERSION, Recipe, trained, unread
from benchmarks.evidence.pages import ITERATED_SLEEP, fill
from benchmarks.results_file import ROOT, provenance, write_result
from datagen.files import replacing
from pipelines.arguments import add_root, given_root
from pipelines.reporting import plots
from pipelines.reporting.markdown import markdown_table
from sleepmodel.evaluation.statistics import Estimate, Mean
from sleepmodel.training.allocator import keep_freed_memory

SOLVED = 0.95  # share of cells right at which a t counts as solved
PICTURE = ROOT / "results" / "evidence" / "moonshot.png"
FIVE, THREE = (60, 61, 62, 63, 64), (60, 61, 62)
ITERATED = Recipe()
ONE = Recipe(iterated=False, traced=False, reads_first=False, deepest=32, opens_at=SOLVED)


@dataclass(frozen=True)
class Variant:
    """A recipe, its seeds (no setting was chosen on them), and a description for the table."""

    recipe: Recipe
    seeds: tuple[int, ...]
    what: str


VARIANTS = {
    "iterated": Variant(ITERATED, FIVE, "t + 1 passes, trained at t <= 4"),
    "one-pass": Variant(ONE, FIVE, "N = 1, the same tokens; t opens at 95 % of cells"),
    "one-pass-compute": Variant(replace(ONE, steps=6300), FIVE, "N = 1, the same FLOPs"),
    "one-pass-far": Variant(replace(ONE, steps=25200), THREE, "N = 1, four times the FLOPs"),
    "four-states": Variant(replace(ITERATED, states=4, batch=16), THREE, "rows of four states, with a sleep on each"),
    "one-pass-at-32": Variant(replace(ONE, steps=6300, shallowest=32), THREE, "N = 1, t = 32 from the first step"),
    "hidden": Variant(replace(ITERATED, carry="hidden"), THREE, "a pass hands on its hidden vectors, as in the paper"),
    "untraced": Variant(replace(ITERATED, traced=False), THREE, "a loss on the answers alone, not on each pass"),
    "fixed-frame": Variant(replace(ITERATED, frame=0), THREE, "labels do not move between steps"),
    "eta-1": Variant(replace(ITERATED, eta=1.0), THREE, "a write cannot fully replace a value"),
    "delta": Variant(replace(ITERATED, mixers=("attention", "delta")), THREE, "the fast weights do not decay"),
    "mixture": Variant(replace(ITERATED, carry="mixture"), THREE, "a pass hands on a mixture of embeddings"),
    "no-reading": Variant(replace(ITERATED, reads_first=False), THREE, "t passes: the first is a step as well"),
    "one-head": Variant(replace(ITERATED, fast_heads=1), THREE, "one head of fast weights"),
    "one-pass-deep": Variant(replace(ONE, mixers=ONE.mixers * 4), THREE, "N = 1, eight blocks, more FLOPs"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evidence.moonshot",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=f"one of {', '.join(VARIANTS)}; default: all")
    add_root(parser)
    parser.add_argument("--redraw", action="store_true", help="draw the published numbers again, without any training")
    given = parser.parse_args()
    if given.redraw:
        if given.variants or given.root:
            parser.error("--redraw draws all that is published: leave out VARIANT and --root")
        redraw()
        return
    unknown = [name for name in given.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"{unknown[0]!r}: must be one of {', '.join(VARIANTS)}")
    directory = given_root(parser, given) / "moonshot"
    directory.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for name in given.variants or VARIANTS for seed in VARIANTS[name].seeds]
    missing = [each for each in wanted if not record(directory, *each).exists()]
    # a process for each training, spawned: torch's threads do not survive a fork
    with multiprocessing.get_context("spawn").Pool(os.cpu_count(), keep_freed_memory) as pool:
        for path in pool.imap_unordered(partial(run, directory), missing):
            print(f"done: {path}", flush=True)
    publish(directory)


def record(directory: Path, name: str, seed: int) -> Path:
    """The path of a training's result; the hash in its name covers everything that shapes the result."""
    identity = json.dumps({"recipe": asdict(VARIANTS[name].recipe), "version": VERSION}, sort_keys=True)
    return directory / f"{name}-seed{seed}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def run(directory: Path, wanted: tuple[str, int]) -> Path:
    """Train a variant on a seed and return the path of its result."""
    name, seed = wanted
    torch.set_num_threads(1)
    path = record(directory, name, seed)
    found = trained(VARIANTS[name].recipe, seed, lambda progress: print(f"{name}, seed {seed}: {progress}", flush=True))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"commit": provenance()["commit"], **found}))
    return path


def publish(directory: Path) -> None:
    """Publish the finished trainings as JSON, as a picture and as the table of the page."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, variant in VARIANTS.items():
        paths = [record(directory, name, seed) for seed in variant.seeds]
        if finished := [json.loads(path.read_text()) for path in paths if path.exists()]:
            runs[name] = finished
    found = {
        name: {"what": VARIANTS[name].what, "recipe": asdict(VARIANTS[name].recipe), "runs": runs[name]}
        for name in runs
    }
    floor = _unread()
    print(f"results {write_result('evidence/moonshot', {'variants': found, 'unread': floor})}")
    shares = ("cells at t = 4", "t = 32", "t = 256", "rows at t = 256")
    head = ("variant", "description", "seeds", "largest t solved", *shares, "tokens", "FLOPs", "seconds")
    rows = [_row(name, each) for name, each in runs.items()]
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console(width=180).print(table)
    _draw(runs, floor, PICTURE)
    guessed = ", ".join(f"{floor[t]:.3f} at t = {t}" for t in (4, 32, 256))
    parts = (
        markdown_table(head, rows),
        "Guessing each cell from the right answers before it, without reading the row, gets this share of cells "
        f"right: {guessed}.",
        f"![cells right by t](../benchmarks/results/evidence/{PICTURE.name})",
    )
    fill(ITERATED_SLEEP, {"moonshot": "\n\n".join(parts)})
    print(f"picture {PICTURE}\npage    {ITERATED_SLEEP}")


def redraw() -> None:
    """Draw the picture of the published numbers."""
    published = json.loads(PICTURE.with_suffix(".json").read_text())
    runs = {name: variant["runs"] for name, variant in published["variants"].items()}
    _draw(runs, _unread(), PICTURE)
    print(f"picture {PICTURE}")


def _unread() -> dict[int, float]:
    """The share of cells right, by t, of guesses from the right answers before each cell."""
    return {t: unread(ITERATED, t, FIVE[0]) for t in ASKED}


def by_t(run: dict[str, Any], of: str = "cells") -> dict[int, float]:
    """The share of held-out cells (or "rows", with all cells) right, by t: after the training; for a model with one
    pass, which learns one t at a time, right before the next t opened."""
    learned = run["learned"] if len(run["test"]) == 1 else []
    return {at["t"]: at[of] for at in learned + run["test"]}


def solved(run: dict[str, Any]) -> int:
    """The largest t that was tested and solved; 0 if there is none."""
    return max((t for t, cells in by_t(run).items() if cells >= SOLVED), default=0)


def _row(name: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    asked = (("cells", 4), ("cells", 32), ("cells", 256), ("rows", 256))
    shares = (_mean([found[t] for found in (by_t(run, of) for run in runs) if t in found]) for of, t in asked)
    largest = ", ".join(str(solved(run)) for run in runs)
    means = [sum(run[figure] for run in runs) / len(runs) for figure in ("tokens", "flops", "seconds")]
    costs = (f"{means[0] / 1e6:.3g}M", f"{means[1]:.2g}", f"{means[2]:.0f}")
    return (name, VARIANTS[name].what, str(len(runs)), largest, *shares, *costs)


def _mean(values: list[float]) -> str:
    if not values:
        return ""
    mean = Mean.of(values)
    return str(Estimate(mean.mean, mean.interval))


def _headline(runs: dict[str, list[dict[str, Any]]]) -> str:
    """How far the two get that the page is about."""
    largest = {
        name: statistics.median_low(solved(run) for run in runs[name])
        for name in ("iterated", "one-pass-compute")
        if name in runs
    }
    words = "; ".join(f"{name} solves t = {t}" for name, t in largest.items())
    return f"{words} (median of seeds; at least {SOLVED:.0%} of cells)"


def _draw(runs: dict[str, list[dict[str, Any]]], floor: dict[int, float], path: Path) -> None:
    """Means over seeds in their 95 % intervals, seeds as faint dots. Filled: passes that are steps; empty: one pass."""
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    style = plots.styles(list(runs))
    for name, each in runs.items():
        look, found = style[name], [by_t(run) for run in runs[name]]
        ts = sorted({t for shares in found for t in shares})
        values = [[shares[t] for shares in found if t in shares] for t in ts]
        for t, shares in zip(ts, values, strict=True):
            axes.plot([t] * len(shares), shares, "o", color=look.colour, alpha=plots.FAINT, ms=3.5, mew=0)
        means = [Mean.of(shares) for shares in values]
        low, high = zip(*((mean.interval if mean.seeds > 1 else (mean.mean,) * 2) for mean in means), strict=True)
        axes.fill_between(ts, low, high, color=look.colour, alpha=0.08, lw=0)
        face = look.colour if VARIANTS[name].recipe.iterated else "none"
        mark: dict[str, Any] = {"marker": look.marker, "markerfacecolor": face, "linestyle": look.line, "lw": 1.2}
        label = f"{name} ({len(each)} seeds)"
        axes.plot(ts, [mean.mean for mean in means], color=look.colour, ms=5, label=label, **mark)
    axes.axhline(SOLVED, color="grey", lw=0.8, ls=":")
    axes.plot(list(floor), list(floor.values()), color="grey", lw=1, ls="--", label="unread")
    axes.set(xscale="log", xlabel="t, steps of Rule 110", ylabel="share of held-out cells right")
    lowest = min(share for each in runs.values() for run in each for share in by_t(run).values())
    axes.set_ylim(lowest - 0.05, 1.03)  # the interval of two seeds reaches far below any of them
    axes.set_xticks(ASKED, [str(t) for t in ASKED])
    axes.minorticks_off()
    figure.legend(loc="outside lower left", fontsize="small", ncols=3, frameon=False)
    figure.suptitle(_headline(runs), x=0.01, ha="left", fontsize="medium", fontweight="bold")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
