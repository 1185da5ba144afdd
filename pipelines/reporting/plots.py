"""The pictures of a report. Each function draws one PNG, with its main result as title.

A variant has the same style in all pictures. Means have 95 % intervals; seeds are faint dots.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from pipelines.reporting import headlines
from pipelines.reporting.comparison import VariantResults, depth_curves
from sleepmodel.distributed.trials import TrialResult
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.statistics import Estimate, Mean
from sleepmodel.training.progress import Progress

matplotlib.use("Agg")

# Okabe and Ito's palette, safe for colour-blind readers; without yellow, which is hard to see on white
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS, LINES = ("o", "s", "^", "D"), ("-", "--", ":", "-.")
FAINT, BAND = 0.4, 0.15
TITLE_CHARACTERS = 11  # in an inch
LEGEND_LINE = 0.22  # inches
LOG_FACTOR = 4  # of the greatest depth to the least; beyond it, depths have a logarithmic axis
LABEL_GAP = 0.3  # heights of a label, between two of them
SIDE_BY_SIDE = 8  # variants whose marks are spread evenly


@dataclass(frozen=True)
class Style:
    """How a variant is drawn."""

    colour: str
    marker: str
    line: str


Styles = Mapping[str, Style]


def styles(names: Sequence[str]) -> dict[str, Style]:
    """A style for each name by its position. When the colours are used up, markers and lines change too."""
    return {name: _turn(i) for i, name in enumerate(names)}


def _turn(i: int) -> Style:
    turn, colour = divmod(i, len(PALETTE))
    return Style(PALETTE[colour], MARKERS[turn % len(MARKERS)], LINES[turn % len(LINES)])


def comparison(variants: Sequence[VariantResults], style: Styles, path: Path, titled: Sequence[str] = ()) -> None:
    """Share of rows right of each variant, and of always guessing the most frequent answer, as a grey bar. titled: the
    variants that the title compares, by default the best and the first."""
    figure, axes = _rows(variants)
    for y, variant in enumerate(variants):
        look, estimate = style[variant.name], variant.rows
        if len(variant.values) > 1:
            seeds = [y + 0.3] * len(variant.values)
            axes.plot(variant.values, seeds, "o", color=look.colour, alpha=FAINT, ms=4, mew=0)
        mark: dict[str, Any] = {"fmt": look.marker, "capsize": 4, "color": look.colour, "markersize": 7}
        axes.errorbar(estimate.value, y, xerr=_error_lengths(estimate), **mark)
        axes.text(1.01, y, f"{estimate.value:.3f}", va="center", transform=axes.get_yaxis_transform())
        label = None if y else "always the most frequent answer"
        axes.plot([variant.results[0].floor], [y], "|", color="grey", markersize=16, label=label)
    dots = "; faint dots are seeds" if any(len(variant.values) > 1 for variant in variants) else ""
    axes.set_xlabel(f"share of held-out rows right, with its 95 % interval{dots}")
    figure.legend(loc="outside lower right", fontsize="small", markerscale=0.5, frameon=False)
    write(figure, headlines.comparison(variants, titled), path)


def by_depth_or_passes(
    variants: Sequence[VariantResults], style: Styles, path: Path, titled: Sequence[str] = (), depth: int | None = None
) -> None:
    """Share of answers right over depth; over N if all answers have one depth. titled, depth: the variants that the
    title compares, and where; None: at the greatest depth."""
    depths = sorted({depth for variant in variants for depth in variant.answers})
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    if len(depths) > 1:
        front = titled or headlines.compared(headlines.at_depth(variants, depth or headlines.deepest(variants)))
        _over_depth(axes, variants, depths, style, front)
    else:
        passes = [variant.sleep_passes for variant in variants]
        for x, variant in zip(_beside(passes), variants, strict=True):
            _bars(axes, [x], variant.answers.values(), style[variant.name], variant.name)
        _log_passes(axes, passes)
    axes.set_ylabel("share of answers right, with its 95 % interval")
    axes.grid(axis="y", alpha=0.3)
    legend(figure, len(axes.get_legend_handles_labels()[1]))
    _drop_overlapping(axes)
    write(figure, headlines.depths(variants, titled, depth), path)


def _over_depth(
    axes: Axes, variants: Sequence[VariantResults], depths: Sequence[int], style: Styles, front: Sequence[str]
) -> None:
    curves = depth_curves(variants)
    by_passes = curves.keys() != {variant.name for variant in variants}
    for i, (label, joined) in enumerate(curves.items()):
        answers = {depth: share for variant in joined for depth, share in variant.answers.items()}
        layer = max(len(front) - front.index(each.name) if each.name in front else 0 for each in joined)
        curve(axes, answers, _turn(i) if by_passes else style[label], label, layer)
    if 0 < LOG_FACTOR * depths[0] < depths[-1]:
        axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_xlabel("depth: steps of the automaton, hops, or operations")


def curve(axes: Axes, estimates: Mapping[int, Estimate], look: Style, label: str, layer: int) -> None:
    """A curve with its intervals: as a band on one of the layers above 0, of which the greatest covers the others; as
    bars on layer 0, where rings show around what covers them."""
    x, values = list(estimates), [estimate.value for estimate in estimates.values()]
    if not layer:
        _bars(axes, x, estimates.values(), look, label, ring=True)
        return
    low, high = zip(*(estimate.interval for estimate in estimates.values()), strict=True)
    above = Line2D.zorder + layer
    axes.plot(x, values, f"{look.marker}{look.line}", color=look.colour, ms=5, lw=1.5, label=label, zorder=above)
    axes.fill_between(x, low, high, color=look.colour, alpha=BAND, lw=0)


def likelihood(variants: Sequence[VariantResults], style: Styles, path: Path, titled: Sequence[str] = ()) -> None:
    """Nats per answer token of each variant; by kind of row where the task has several, as far as there are markers."""
    kinds = list(dict.fromkeys(kind for variant in variants for kind in variant.kinds))
    kinds = kinds if 0 < len(kinds) <= len(MARKERS) else ["all"]
    figure, axes = _rows(variants, len(kinds))
    for i, kind in enumerate(kinds):
        marker, offset = MARKERS[i % len(MARKERS)], 2 * _offset(i, len(kinds))
        for y, variant in enumerate(variants):
            if kind in variant.token_estimates:
                nats = variant.token_estimates[kind].nats
                mark: dict[str, Any] = {"fmt": marker, "capsize": 4, "color": style[variant.name].colour}
                axes.errorbar(nats.value, y + offset, xerr=_error_lengths(nats), **mark)
        axes.plot([], [], marker, color="grey", label=kind)
    axes.set_xlabel("nats per answer token, with the 95 % interval; fewer are better")
    if len(kinds) > 1:
        legend(figure, len(kinds))
    write(figure, headlines.likelihood(variants, kinds, titled), path)


def positions(variants: Sequence[VariantResults], style: Styles, path: Path, titled: Sequence[str] = ()) -> None:
    """Nats per token of each variant: over the tokens of the window that it has read, at the end of each bin, and over
    the windows that it has read."""
    figure, (within, windows) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    bins = sorted({found for variant in variants for found in variant.windows}, key=lambda found: found.first)
    names = list(dict.fromkeys(found.name for found in bins))
    for i, (variant, label) in enumerate(zip(variants, _labels(variants), strict=True)):
        look = style[variant.name]
        read = variant.within
        _bars(within, [found.last for found in read], read.values(), look, label)
        xs = [names.index(found.name) + 0.5 * _offset(i, len(variants)) for found in variant.windows]
        _bars(windows, xs, variant.windows.values(), look)
    within.set_xscale("log", base=2)
    within.xaxis.set_major_formatter("{x:g}")
    within.set_xlabel("tokens of the window that have been read, after the first window")
    within.set_ylabel("nats per token, with the 95 % interval")
    windows.set_xticks(range(len(names)), names)
    windows.set_xlabel("whole windows that have been read before")
    legend(figure, len(variants))
    write(figure, headlines.positions(variants, titled), path)


def learning_curves(histories: Mapping[str, Sequence[Sequence[Progress]]], style: Styles, path: Path) -> None:
    """Validation accuracy over training tokens and over training FLOPs: the mean over seeds, with its interval.
    histories: variant -> the history of each seed."""
    figure, (over_tokens, over_flops) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for name, seeds in histories.items():
        look = style[name]
        at = list(zip(*seeds, strict=False))  # the n-th reports of all seeds, which are at the same step
        means = [Mean.of([each.accuracy for each in reports]) for reports in at]
        for axes, x in (
            (over_tokens, [[each.tokens for each in reports] for reports in at]),
            (over_flops, [[each.flops for each in reports] for reports in at]),
        ):
            middle = [float(np.mean(xs)) for xs in x]
            label = name if axes is over_tokens else None
            axes.plot(middle, [mean.mean for mean in means], look.line, color=look.colour, lw=1.5, label=label)
            if len(seeds) > 1:
                low, high = zip(*(mean.interval for mean in means), strict=True)
                axes.fill_between(middle, low, high, color=look.colour, alpha=0.12, lw=0)
                dots = [(x[i][j], each.accuracy) for i, reports in enumerate(at) for j, each in enumerate(reports)]
                axes.plot(*zip(*dots, strict=True), "o", color=look.colour, alpha=FAINT, ms=2.5, mew=0)
    over_tokens.set_xlabel("training tokens")
    over_tokens.xaxis.set_major_formatter(EngFormatter(sep=""))
    over_flops.set_xlabel("training FLOPs")
    over_flops.set_xscale("log")  # variants differ by factors
    over_tokens.set_ylabel("share of validation rows right")
    legend(figure, len(histories))
    write(figure, headlines.learning_curves(histories), path)


def by_eta(variants: Mapping[int, Sequence[VariantResults]], path: Path, titled: Sequence[str] = ()) -> None:
    """Share of test rows right over eta, one curve for each N. variants: by N, in ascending order of eta.

    A curve joins several variants, so it has a style of its own.
    """
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, (passes, group) in enumerate(variants.items()):
        look = Style(PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)], "-")
        etas = [variant.results[0].fast_weight_lr for variant in group]
        for eta, variant in zip(etas, group, strict=True):
            if len(variant.values) > 1:
                axes.plot([eta] * len(variant.values), variant.values, "o", color=look.colour, alpha=FAINT, ms=4, mew=0)
        _bars(axes, etas, [variant.rows for variant in group], look, f"N = {passes}")
    _log_etas(axes, [variant.results[0].fast_weight_lr for group in variants.values() for variant in group])
    axes.set_ylabel("share of test rows right")
    legend(figure, len(variants))
    write(figure, headlines.etas([variant for group in variants.values() for variant in group], titled), path)


def search(trials: Sequence[TrialResult], winner: TrialResult, path: Path) -> None:
    """The trials by N and eta, coloured by accuracy; those that ASHA stopped are small."""
    figure, axes = plt.subplots(figsize=(7, 4.4), layout="constrained")
    etas, passes = [t.fast_weight_lr for t in trials], [t.sleep_passes for t in trials]
    sizes = [160 if trial.complete else 50 for trial in trials]
    shade: dict[str, Any] = {"c": [t.accuracy for t in trials], "cmap": "cividis"}
    dots = axes.scatter(etas, passes, s=sizes, edgecolors="black", **shade)
    axes.scatter([], [], s=50, facecolors="none", edgecolors="black", label="stopped early")
    ring: dict[str, Any] = {"s": 420, "facecolors": "none", "edgecolors": PALETTE[1], "linewidths": 2}
    axes.scatter([winner.fast_weight_lr], [winner.sleep_passes], label="winner", **ring)
    _log_etas(axes, etas)
    axes.set_yscale("log", base=2)
    axes.set_yticks(sorted(set(passes)), [str(n) for n in sorted(set(passes))])
    axes.set_ylim(min(passes) / 1.5, max(passes) * 1.5)
    axes.set_ylabel("sleep passes N")
    figure.colorbar(dots, label="validation accuracy")
    figure.legend(loc="outside lower right", fontsize="small", markerscale=0.5, frameon=False)
    write(figure, headlines.search(trials, winner), path)


def costs(measured: Sequence[InferenceCost], style: Styles, path: Path) -> None:
    """Milliseconds per token awake and per window asleep, of each variant, over N."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    passes = [cost.sleep_passes for cost in measured]
    for x, cost in zip(_beside(passes), measured, strict=True):
        look = style[cost.variant]
        for axis, milliseconds in zip(axes, (cost.awake_ms, cost.sleep_ms), strict=True):
            label = cost.variant if axis is axes[0] else None
            axis.plot([x], [milliseconds], look.marker, color=look.colour, label=label)
    for axis, words in zip(axes, ("awake: ms per token", "asleep: ms per window"), strict=True):
        _log_passes(axis, passes)
        axis.set_ylabel(words)
        axis.set_ylim(0, 1.2 * max(axis.get_ylim()[1], 1e-6))
    legend(figure, len(measured))
    write(figure, headlines.costs(measured), path)


def memory(kinds: Mapping[str, InferenceCost], lengths: Sequence[int], style: Styles, path: Path) -> None:
    """Bytes for one row over its length: the state of a model that sleeps, and its KV cache if nothing were evicted.
    kinds: by the names of variants with equal memory; drawn in the style of the first of them."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for names, cost in kinds.items():
        look, short = style[cost.variant], textwrap.shorten(names, 60, placeholder=" ...")
        axes.plot(
            lengths, [cost.bytes(n) for n in lengths], f"{look.marker}-", color=look.colour, label=f"{short}: kept"
        )
        if cost.token_bytes:
            whole = [cost.token_bytes * n for n in lengths]
            axes.plot(lengths, whole, "--", color=look.colour, label=f"{short}: KV cache without eviction")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("tokens read")
    axes.set_ylabel("bytes per row")
    legend(figure, 2 * len(kinds), columns=1)
    write(figure, headlines.memory({cost.variant: cost for cost in kinds.values()}, lengths[-1]), path)


def _offset(i: int, count: int) -> float:
    """The offset of the i-th of `count` marks at one x, so that their intervals do not overlap."""
    return (i - (count - 1) / 2) / max(count, SIDE_BY_SIDE)


def _beside(passes: Sequence[int]) -> list[float]:
    """The x of each mark on a logarithmic axis of N, beside the others with its N."""
    earlier = [passes[:i].count(n) for i, n in enumerate(passes)]
    return [n * 2 ** (0.5 * _offset(i, passes.count(n))) for n, i in zip(passes, earlier, strict=True)]


def _drop_overlapping(axes: Axes) -> None:
    """Blank the labels of the x axis that would touch the one to their right."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # which lays the figure out
    kept, begin = [], math.inf
    for label in reversed(axes.get_xticklabels()):
        box = label.get_window_extent()
        shown = box.x1 + LABEL_GAP * box.height < begin
        kept.append(label.get_text() if shown else "")
        begin = box.x0 if shown else begin
    axes.set_xticks(axes.get_xticks(), kept[::-1])


def _rows(variants: Sequence[VariantResults], marks: int = 1) -> tuple[Figure, Axes]:
    """A picture with a row for each variant, which has so many marks."""
    height = 1.3 + (0.3 + 0.1 * marks) * len(variants)
    figure, axes = plt.subplots(figsize=(7.5, height), layout="constrained")
    axes.set_yticks(range(len(variants)), _labels(variants))
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _labels(variants: Sequence[VariantResults]) -> list[str]:
    """The names with N, and with eta where variants differ in it, unless the name says it. N is left out where rows
    have several depths: it may follow the depth."""
    several = len({variant.results[0].fast_weight_lr for variant in variants}) > 1
    found = []
    for variant in variants:
        passes, eta = variant.sleep_passes, f"{variant.results[0].fast_weight_lr:.3g}"
        words = [variant.name]
        if len(variant.answers) == 1 and not re.search(rf"(\bn|@){passes}\b", variant.name):
            words.append(f"N = {passes}")
        if several and not re.search(rf"\beta-?{re.escape(eta)}(?![\w.])", variant.name):
            words.append(f"eta = {eta}")
        found.append(", ".join(words))
    return found


def _log_passes(axes: Axes, passes: Sequence[int]) -> None:
    """A logarithmic axis of N, with margins."""
    axes.set_xscale("log", base=2)
    ticks = sorted(set(passes))
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0] / 1.5, ticks[-1] * 1.5)
    axes.set_xlabel("sleep passes N")


def _log_etas(axes: Axes, etas: Sequence[float]) -> None:
    """A logarithmic axis of eta, with a tick at each half power of two."""
    axes.set_xscale("log", base=2)
    low, high = min(etas) / 1.1, max(etas) * 1.1
    ticks = [2 ** (half / 2) for half in range(-20, 21) if low <= 2 ** (half / 2) <= high]
    axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
    axes.set_xlim(low, high)
    axes.set_xlabel("fast-weight learning rate eta")


def _bars(
    axes: Axes,
    x: Sequence[float],
    estimates: Iterable[Estimate],
    look: Style,
    label: str | None = None,
    ring: bool = False,
) -> None:
    """Marks with error bars, joined by a thin line. ring: the marks are large and hollow."""
    estimates = list(estimates)
    lengths = np.concatenate([_error_lengths(estimate) for estimate in estimates], axis=1)
    values = [estimate.value for estimate in estimates]
    mark: dict[str, Any] = {
        "fmt": f"{look.marker}{look.line}",
        "lw": 1,
        "markersize": 8 if ring else 5,
        "fillstyle": "none" if ring else "full",
        "capsize": 3,
        "color": look.colour,
    }
    axes.errorbar(x, values, yerr=lengths, label=label, **mark)


def _error_lengths(estimate: Estimate) -> npt.NDArray[np.float64]:
    """The lengths of an error bar below and above its mark, [2, 1]; at least 0, which rounding could break."""
    low, high = estimate.interval
    return np.maximum([[estimate.value - low], [high - estimate.value]], 0)


def legend(figure: Figure, entries: int, columns: int | None = None) -> None:
    """Add a legend below the axes, where it hides nothing."""
    columns = columns or min(entries, 4 if figure.get_figwidth() > 8 else 3)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (entries // columns))
    figure.legend(loc="outside lower left", fontsize="small", ncols=columns, frameon=False)


def write(figure: Figure, title: str, path: Path) -> None:
    """Write the picture with its title, and close it."""
    words = textwrap.fill(title, int(TITLE_CHARACTERS * figure.get_figwidth()))
    figure.suptitle(words, x=0.01, ha="left", fontsize="medium", fontweight="bold")
    with path.open("wb") as file:  # savefig cannot write to a path in an object store
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)
