"""The pictures of a report. Each function draws one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from sleepmodel.evaluation import Mean
from sleepmodel.training import Progress
from sleepmodel.tuning import TrialResult


def comparison(lines: Mapping[str, tuple[Sequence[float], float]], path: Path) -> None:
    """Accuracy of each line of the comparison: its seeds as dots, their mean with its 95 % interval; and the accuracy
    of always giving the commonest answer, as a grey bar. lines: label -> (accuracy of each seed, that floor)."""
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.7 * len(lines)), layout="constrained")
    for y, (values, floor) in enumerate(lines.values()):
        mean = Mean.of(values)
        error = mean.half_width if mean.seeds > 1 else 0.0
        axes.errorbar(mean.mean, y, xerr=error, fmt="s", capsize=5, color=f"C{y}", markersize=9)
        axes.plot([floor], [y], "|", color="grey", markersize=24, label=None if y else "the commonest answer, always")
        axes.plot(values, [y + 0.2] * len(values), "o", color=f"C{y}", alpha=0.5, markersize=4)
    axes.set_yticks(range(len(lines)), list(lines))
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel("held-out accuracy: seeds, mean and 95 % interval over seeds")
    axes.legend(loc="lower center", fontsize="small", markerscale=0.4)
    _write(figure, path)


def learning_curves(lines: Mapping[str, Sequence[Sequence[Progress]]], path: Path) -> None:
    """Validation accuracy over training tokens; a thin line a seed."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for i, (line, histories) in enumerate(lines.items()):
        for j, history in enumerate(histories):
            label = line if j == 0 else None
            axes.plot([at.tokens for at in history], [at.accuracy for at in history], color=f"C{i}", lw=1, label=label)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("validation accuracy")
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


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120)
    plt.close(figure)
