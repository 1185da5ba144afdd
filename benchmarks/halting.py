"""Measure accuracy against the mean passes of a sleep: fixed N, and rules that end a sleep when a pass changes little.

    python -m benchmarks.halting MODEL ... --data DATASET [--rows N] [--most N]

Several models are seeds of one variant: means over them. Train with N drawn (train.sleep_passes), so that a model can
be used at any N. Writes benchmarks/results/halting.json and halting.png, and fills the halting table of
docs/iterated-sleep.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import track

from benchmarks.arguments import model_parser
from benchmarks.evidence.pages import ITERATED_SLEEP, fill
from benchmarks.results_file import write_result
from datagen import Rows, read_rows
from datagen.checks import require
from datagen.reader import read_dataset
from pipelines.arguments import positive
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.plots import PALETTE
from sleepmodel import Halting, SleepModel, load
from sleepmodel.accounting import fingerprint
from sleepmodel.evaluation.halting import Measured, check_measurable, measure_passes
from sleepmodel.evaluation.statistics import Estimate, Mean

FIXED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
RULES = (
    *(Halting(change) for change in (0.0, 0.05, 0.1, 0.2, 0.4)),
    *(Halting(change, "state") for change in (0.003, 0.01, 0.03, 0.1, 0.3)),
)
AS_GOOD = 0.01  # below the best accuracy
LOOKS = {"fixed N": ("o-", PALETTE[-1]), "readout": ("^--", PALETTE[0]), "state": ("s--", PALETTE[1])}


def main() -> None:
    parser = model_parser("halting", __doc__, "whose test rows are read")
    parser.add_argument("--most", type=positive, default=16, help="the passes after which a rule gives up; default: 16")
    given = parser.parse_args()
    fixed = [n for n in FIXED if n < given.most] + [given.most]
    try:
        about, rows = read_dataset(given.data), read_rows(given.data, "test", given.rows)
        models = [load(source) for source in given.models]
        check(models, rows, given.most)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found = []
    for model in models:
        measured = measure_passes(model, rows, fixed, RULES, given.most)
        found.append(list(track(measured, "settings", total=len(fixed) + len(RULES))))
    points = [summary(seeds) for seeds in zip(*found, strict=True)]
    about_data = {"task": about.task, "dataset": Path(given.data).name, "rows": len(rows)}
    payload = {**about_data, "models": [fingerprint(model) for model in models], "most": given.most, "points": points}
    path = write_result("halting", payload)
    draw(points, path.with_suffix(".png"))
    block = f"{verdict(points)}\n\n{table(points)}\n\n![accuracy by passes](../benchmarks/results/halting.png)"
    fill(ITERATED_SLEEP, {"halting": block})
    Console().print(f"{verdict(points)}\n\n{table(points)}", markup=False)
    print(f"results {path}\npicture {path.with_suffix('.png')}\npage    {ITERATED_SLEEP}")


def check(models: Sequence[SleepModel], rows: Rows, most: int) -> None:
    """Raise ValueError if the models do not sleep on the same windows, or if one of them cannot be measured."""
    for name in ("window", "sleep_on"):
        values = sorted({getattr(model.config, name) for model in models})
        require(len(values) == 1, name, values, "the same for all models, which are seeds of one variant")
    for model in models:
        check_measurable(model, rows, RULES, most)


def summary(seeds: Sequence[Measured]) -> dict[str, Any]:
    """One setting, over the models."""
    first, passes = seeds[0], Mean.of([each.passes for each in seeds])
    return {
        "rule": None if first.halting is None else asdict(first.halting),
        "passes": passes.mean,
        "accuracy": asdict(Estimate.of([each.accuracy.rows for each in seeds])),
        "models": [{"passes": each.passes, "accuracy": each.accuracy.rows.value} for each in seeds],
        "depths": {
            str(depth): {
                "passes": Mean.of([each.depths[depth] for each in seeds]).mean,
                "answers": Mean.of([each.accuracy.answers[depth].value for each in seeds]).mean,
            }
            for depth in first.depths
        },
    }


def name_of(point: dict[str, Any]) -> str:
    """The line of the picture that a setting belongs to."""
    return "fixed N" if point["rule"] is None else str(point["rule"]["measure"])


def verdict(points: list[dict[str, Any]]) -> str:
    """The fewest passes with about the accuracy of the best fixed N, by a rule and without one."""
    best = max(point["accuracy"]["value"] for point in points if point["rule"] is None)
    good = [point for point in points if point["accuracy"]["value"] >= best - AS_GOOD]
    fewest = min(point["passes"] for point in good if point["rule"] is None)
    rules = [point["passes"] for point in good if point["rule"] is not None]
    reached = f"{min(rules):.1f} by a rule" if rules else "no rule gets there"
    least = f"Fewest passes whose accuracy is within {AS_GOOD} of the best fixed N"
    return f"{least}: {fewest:.0f} with a fixed N, {reached}"


def table(points: list[dict[str, Any]]) -> str:
    depths = list(points[0]["depths"])
    lines = []
    for point in points:
        rule, estimate = point["rule"], Estimate(**point["accuracy"])
        setting = f"N = {point['passes']:.0f}" if rule is None else f"{rule['measure']} at most {rule['change']}"
        found = point["depths"]  # of rows that sleep
        by_depth = [f"{found[depth]['passes']:.1f}" if depth in found else "" for depth in depths]
        lines.append((setting, f"{point['passes']:.2f}", str(estimate), *(by_depth if len(depths) > 1 else ())))
    deeper = [f"passes at depth {depth}" for depth in depths] if len(depths) > 1 else []
    return markdown_table(("setting", "mean passes", "rows right", *deeper), lines)


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Means over the models; behind them, in faint lines, each model."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, (form, colour) in LOOKS.items():
        own = sorted((point for point in points if name_of(point) == name), key=lambda point: point["passes"])
        for of_model in zip(*(point["models"] for point in own), strict=True):
            each = sorted((model["passes"], model["accuracy"]) for model in of_model)
            axes.plot(*zip(*each, strict=True), form[1:], color=colour, alpha=0.3)
        label = name if name == "fixed N" else f"until the {name} changes little"
        values = [point["accuracy"]["value"] for point in own]
        axes.plot([point["passes"] for point in own], values, form, color=colour, label=label)
    axes.set(xlabel="mean passes of a sleep", ylabel="share of test rows right", xscale="log", ylim=(0, 1.02))
    ticks = [point["passes"] for point in points if point["rule"] is None]
    axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
    axes.minorticks_off()
    figure.legend(loc="outside lower center", ncols=len(LOOKS), frameon=False)
    axes.set_title(verdict(points), fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
