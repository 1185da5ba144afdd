"""The pictures of a report. Each function draws one PNG."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from sleepmodel.distributed.ray_tune import TrialResult
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.statistics import Estimate
from sleepmodel.training.progress import Progress

matplotlib.use("Agg")


def comparison(variants: Mapping[str, tuple[Sequence[float], Estimate, float]], path: Path) -> None:
    """Accuracy of each line of the comparison: its seeds as dots, the estimate with its interval; and the accuracy of
    always giving the commonest answer, as a grey bar. lines: label -> (accuracy of each seed, estimate, that floor)."""
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.7 * len(variants)), layout="constrained")
    for y, (values, estimate, floor) in enumerate(variants.values()):
        axes.errorbar(estimate.value, y, xerr=_arms(estimate), fmt="s", capsize=5, color=f"C{y}", markersize=9)
        axes.plot([floor], [y], "|", color="grey", markersize=24, label=None if y else "the commonest answer, always")
        if len(values) > 1:
            axes.plot(values, [y + 0.2] * len(values), "o", color=f"C{y}", alpha=0.5, markersize=4)
    axes.set_yticks(range(len(variants)), list(variants))
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.set_xlabel("share of held-out rows right, with its 95 % interval; small dots are seeds")
    axes.legend(loc="lower center", fontsize="small", markerscale=0.4)
    _write(figure, path)


def by_depth_and_passes(variants: Mapping[str, tuple[int, Mapping[int, Estimate]]], path: Path) -> None:
    """Share of answers right over their depth, a curve a line; and over N, a colour a depth.
    lines: name -> (N, depth -> estimate)."""
    depths = sorted({depth for _, estimates in variants.values() for depth in estimates})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for i, (name, (passes, estimates)) in enumerate(variants.items()):
        # a little aside, so that intervals at one depth or N do not cover each other
        aside = (i - (len(variants) - 1) / 2) / max(len(variants), 8)
        _bars(
            left,
            [depths.index(d) + 0.5 * aside for d in estimates],
            estimates.values(),
            f"C{i}",
            f"{name}, N = {passes}",
        )
        for depth, estimate in estimates.items():
            # the name of a depth stands in the legend once
            known = right.get_legend_handles_labels()[1]
            label = f"depth {depth}" if f"depth {depth}" not in known else None
            _bars(right, [passes + 0.5 * aside], [estimate], f"C{depths.index(depth)}", label)
    left.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    left.set_xlim(-0.6, len(depths) - 0.4)
    left.set_xlabel("depth")
    left.set_ylabel("share of answers right")
    _ticks(right, [passes for passes, _ in variants.values()])
    right.set_xlabel("sleep passes N, a dot a line")
    for axes in (left, right):
        axes.legend(fontsize="small")
    _write(figure, path)


def learning_curves(variants: Mapping[str, Sequence[Sequence[Progress]]], path: Path) -> None:
    """Validation accuracy over training tokens and over training FLOPs; a thin line a seed.
    lines: name -> history of each seed."""
    figure, (over_tokens, over_flops) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for i, (name, seeds) in enumerate(variants.items()):
        for j, history in enumerate(seeds):
            accuracy, label = [at.accuracy for at in history], None if j else name
            over_tokens.plot([at.tokens for at in history], accuracy, ".-", color=f"C{i}", lw=1, label=label)
            over_flops.plot([at.flops for at in history], accuracy, ".-", color=f"C{i}", lw=1)
    over_tokens.set_xlabel("training tokens")
    over_flops.set_xlabel("training FLOPs")
    over_tokens.set_ylabel("share of validation rows right")
    over_tokens.legend(fontsize="small")
    _write(figure, path)


def by_eta(variants: Mapping[int, Sequence[tuple[float, Estimate]]], path: Path) -> None:
    """Share of test rows right over eta, a curve for each N. lines: N -> (eta, estimate), ascending."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for passes, points in variants.items():
        etas, values = [eta for eta, _ in points], [estimate.value for _, estimate in points]
        errors = [[abs(estimate.value - estimate.interval[end]) for _, estimate in points] for end in (0, 1)]
        axes.errorbar(etas, values, yerr=errors, fmt=".-", capsize=3, lw=1, label=f"N = {passes}")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel("fast-weight learning rate eta")
    axes.set_ylabel("share of test rows right")
    axes.legend(fontsize="small")
    _write(figure, path)


def search(trials: Sequence[TrialResult], winner: TrialResult, path: Path) -> None:
    """The trials in the plane of N and eta, coloured by accuracy; those that ASHA stopped are small."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    etas, passes = [t.fast_weight_lr for t in trials], [t.sleep_passes for t in trials]
    sizes = [160 if trial.complete else 50 for trial in trials]
    dots = axes.scatter(etas, passes, c=[t.accuracy for t in trials], s=sizes, cmap="viridis", edgecolors="black")
    axes.scatter(
        [winner.fast_weight_lr], [winner.sleep_passes], s=420, facecolors="none", edgecolors="red", label="winner"
    )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_yticks(sorted(set(passes)))
    axes.set_xlabel("fast-weight learning rate eta")
    axes.set_ylabel("sleep passes N")
    axes.legend(fontsize="small")
    figure.colorbar(dots, label="validation accuracy at the last report")
    _write(figure, path)


def costs(measured: Sequence[InferenceCost], path: Path) -> None:
    """Milliseconds a token awake, and a window asleep, of each line over its N."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    for i, cost in enumerate(measured):
        aside = 0.3 * (i - (len(measured) - 1) / 2) / max(len(measured), 8)
        for axis, milliseconds in zip(axes, (cost.awake_ms, cost.sleep_ms), strict=True):
            axis.plot([cost.sleep_passes + aside], [milliseconds], "o", color=f"C{i}", label=cost.variant)
    for axis, label in zip(axes, ("awake: ms a token", "asleep: ms a window"), strict=True):
        _ticks(axis, [cost.sleep_passes for cost in measured])
        axis.set_xlabel("sleep passes N")
        axis.set_ylabel(label)
        axis.set_ylim(0, 1.2 * max(axis.get_ylim()[1], 1e-6))
    axes[0].legend(fontsize="small")
    _write(figure, path)


def memory(kinds: Mapping[str, InferenceCost], lengths: Sequence[int], path: Path) -> None:
    """Bytes that a row needs over its length: what a sleeping model keeps, and the KV cache that is never dropped."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, (name, cost) in enumerate(kinds.items()):
        axes.plot(lengths, [cost.bytes(n) for n in lengths], "o-", color=f"C{i}", label=f"{name}: kept")
        if cost.token_bytes:
            whole = [cost.token_bytes * n for n in lengths]
            axes.plot(lengths, whole, "--", color=f"C{i}", label=f"{name}: KV cache never dropped")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xlabel("tokens read")
    axes.set_ylabel("bytes a row")
    axes.legend(fontsize="small")
    _write(figure, path)


def _ticks(axes: Axes, passes: Sequence[int]) -> None:
    """An axis of N, with room beside the outer ones."""
    axes.set_xticks(sorted(set(passes)))
    axes.set_xlim(min(passes) - 0.7, max(passes) + 0.7)


def _bars(axes: Axes, x: Sequence[float], estimates: Iterable[Estimate], colour: str, label: str | None) -> None:
    """Dots with their intervals, joined by a thin line."""
    estimates = list(estimates)
    variants = np.concatenate([_arms(estimate) for estimate in estimates], axis=1)
    values = [estimate.value for estimate in estimates]
    axes.errorbar(x, values, yerr=variants, fmt="o-", lw=1, markersize=5, capsize=3, color=colour, label=label)


def _arms(estimate: Estimate) -> npt.NDArray[np.float64]:
    """How far the interval reaches below and above, [2, 1]; nowhere below nothing, as rounding may put it."""
    low, high = estimate.interval
    return np.maximum([[estimate.value - low], [high - estimate.value]], 0)


def _write(figure: Figure, path: Path) -> None:
    with path.open("wb") as file:  # it knows no path in a store
        figure.savefig(file, dpi=120, format="png")
    plt.close(figure)
