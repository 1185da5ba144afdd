"""Measure what the fast weights hold after each pass of a sleep: which hops can the model, or a probe, read off?

    python -m benchmarks.passes MODEL ... --data DATASET [--rows N] [--most N]

Several models are seeds of one variant: means over them. The task must be one whose questions can be asked at any depth
(`Task.asked_at`), as Depo with one-token names. Probes are fitted on the validation rows; everything is scored on test
rows. Writes benchmarks/results/passes.json and passes.png, and fills in the table `passes` of docs/evidence.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from rich.console import Console
from rich.progress import track

from benchmarks.arguments import model_parser
from benchmarks.evidence.pages import EVIDENCE, fill
from benchmarks.results_file import write_result
from datagen import Rows, read_rows
from datagen.checks import require
from datagen.reader import read_dataset
from datagen.schema import Dataset
from datagen.task import Task, wording_of
from pipelines.arguments import positive
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.plots import write
from sleepmodel import SleepModel, load
from sleepmodel.accounting import fingerprint
from sleepmodel.evaluation.probe import Held, check_probed, measure_held
from sleepmodel.evaluation.statistics import Estimate

READ = 0.5  # a hop can be read if a probe has more of the answers right
Points = Sequence[dict[str, Any]]


def main() -> None:
    parser = model_parser("passes", __doc__, "that the models were trained on")
    parser.add_argument("--most", type=positive, help="the most passes; default: the models' N")
    given = parser.parse_args()
    try:
        about, models = read_dataset(given.data), [load(source) for source in given.models]
        validation, test = read_rows(given.data, "validation"), read_rows(given.data, "test", given.rows)
        fitted, tested = (asked_at_each_depth(about, rows) for rows in (validation, test))
        check(models, about, tested)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    passes = range((given.most or models[0].config.sleep_passes) + 1)
    together, found = len(tested[1]) // len(test), []
    for model in models:
        measured = measure_held(model, fitted, tested, passes, together)
        found.append(list(track(measured, "passes and hops", total=len(passes) * len(tested))))
    points = [summary(seeds) for seeds in zip(*found, strict=True)]
    about_data = {
        "task": about.task,
        "dataset": Path(given.data).name,
        "rows": len(test),
        "probe_rows": len(validation),
    }
    payload = {**about_data, "models": [fingerprint(model) for model in models], "points": points}
    path = write_result("passes", payload)
    draw(points, path.with_suffix(".png"))
    said = f"{verdict(points)}. {on_the_way(points)}.\n\n{table(points)}"
    fill(EVIDENCE, {"passes": f"{said}\n\n![hops by passes](../benchmarks/results/passes.png)"})
    Console().print(said, markup=False)
    print(f"results {path}\npicture {path.with_suffix('.png')}\npage    {EVIDENCE}")


def asked_at_each_depth(about: Dataset, rows: Rows) -> dict[int, Rows]:
    """The questions of these rows, each in a row of its own, asked at depth 1, 2, ...; by depth. Raises ValueError if
    the task of this dataset cannot ask them so."""
    task = wording_of(about.task, about.config)
    require(isinstance(task, Task), "task", about.task, "one of this package's that can ask a question at any depth")
    assert isinstance(task, Task)
    return {depth: task.asked_at(rows, depth) for depth in range(1, task.max_depth + 1)}


def check(models: Sequence[SleepModel], about: Dataset, tested: dict[int, Rows]) -> None:
    """Raise ValueError if the models are not seeds of one variant, are of another task, or cannot be probed."""
    configs = {model.config for model in models}
    require(len(configs) == 1, "models", len(configs), "seeds of one variant: they have so many configs")
    config, size = models[0].config, len(about.vocabulary)
    require(config.vocab_size == size, "vocab_size", config.vocab_size, f"{size}, the vocabulary of the dataset")
    check_probed(models[0], tested[1])


def summary(seeds: Sequence[Held]) -> dict[str, Any]:
    """Questions of one depth after so many passes, over the models."""
    first = seeds[0]
    return {
        "passes": first.passes,
        "asked": first.asked,
        "answered": asdict(Estimate.of([each.answered for each in seeds])),
        "decoded": {str(hop): asdict(Estimate.of([each.decoded[hop] for each in seeds])) for hop in first.decoded},
        "models": [
            {
                "answered": each.answered.value,
                "decoded": {str(hop): share.value for hop, share in each.decoded.items()},
            }
            for each in seeds
        ],
    }


def first_read(points: Points) -> dict[int, int]:
    """The fewest passes after which a probe reads each hop off a question for it, of the hops that it ever reads."""
    passes: dict[int, int] = {}
    for point in sorted(points, key=lambda point: (point["asked"], point["passes"])):
        if point["decoded"][str(point["asked"])]["value"] > READ:
            passes.setdefault(point["asked"], point["passes"])
    return passes


def verdict(points: Points) -> str:
    """Whether further passes make further hops readable, and from which pass on each one is."""
    passes = first_read(points)
    if not passes:
        return "No hop can be read off the fast weights after any pass"
    found = list(passes.values())
    if len(passes) == 1:
        return f"Only hop {listed(passes)} can be read off the fast weights, from pass {listed(found)} on"
    if len(set(found)) == 1:
        return f"Pass {found[0]} makes all of hops {listed(passes)} readable; later passes add none"
    read = f"hops {listed(passes)} can be read off the fast weights from passes {listed(found)} on"
    return f"Deeper hops take more passes: {read}" if found == sorted(set(found)) else read.capitalize()


def deepest_read(points: Points) -> int:
    """The most hops that a probe ever reads; if it reads none, the most that are asked."""
    return max(first_read(points), default=max(point["asked"] for point in points))


def on_the_way(points: Points) -> str:
    """The hops that a probe reads off the question for the deepest one, pass by pass."""
    asked, parts = deepest_read(points), []
    shown = [point for point in points if point["asked"] == asked and point["passes"]]
    for hops, alike in groupby(shown, hops_read):
        passes = [point["passes"] for point in alike]
        read = f"{'hops' if len(hops) > 1 else 'hop'} {listed(hops)}" if hops else "none"
        when = f"passes {passes[0]} to {passes[-1]}" if len(passes) > 1 else f"pass {passes[0]}"
        parts.append(f"{read} after {when}")
    return f"Off a question for {counted(asked)}, a probe reads {', '.join(parts)}"


def hops_read(point: dict[str, Any]) -> list[str]:
    """The hops that a probe reads off a question after so many passes."""
    return [hop for hop, found in point["decoded"].items() if found["value"] > READ]


def counted(hops: int) -> str:
    return "1 hop" if hops == 1 else f"{hops} hops"


def listed(values: Iterable[object]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def table(points: Points) -> str:
    hops = list(points[0]["decoded"])
    lines = [
        (
            point["passes"],
            counted(point["asked"]),
            Estimate(**point["answered"]),
            *(Estimate(**point["decoded"][hop]) for hop in hops),
        )
        for point in points
    ]
    return markdown_table(("after pass", "question", "answered", *(f"probe: hop {hop}" for hop in hops)), lines)


def draw(points: Points, path: Path) -> None:
    """Heat maps of hops by passes: the model's answers, probes of the same questions, probes of the deepest ones."""
    passes, hops = (sorted({point[name] for point in points}) for name in ("passes", "asked"))
    at, deepest = {(point["passes"], point["asked"]): point for point in points}, deepest_read(points)
    panels: dict[str, Callable[[int, int], dict[str, float]]] = {
        "a question for this hop: the model's answer": lambda n, hop: at[n, hop]["answered"],
        "a question for this hop: a probe": lambda n, hop: at[n, hop]["decoded"][str(hop)],
        f"a question for {counted(deepest)}: a probe of each hop": lambda n, hop: at[n, deepest]["decoded"][str(hop)],
    }
    size = 1.6 + 0.8 * len(panels) * len(passes), 1.4 + 0.6 * len(hops)
    figure, each = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
    for axes, (title, estimate) in zip(each, panels.items(), strict=True):
        shares = np.array([[estimate(n, hop)["value"] for n in passes] for hop in hops])
        image = heat_map(axes, shares)
        axes.set_xticks(range(len(passes)), [str(n) for n in passes])
        axes.set_xlabel("passes of the sleep")
        axes.set_title(title, fontsize="small")
    each[0].set_yticks(range(len(hops)), [f"hop {hop}" for hop in hops])
    figure.colorbar(image, ax=each, label="share right")
    write(figure, verdict(points), path)


def heat_map(axes: Axes, shares: npt.NDArray[np.float64]) -> AxesImage:
    """Shares [rows, columns] as colours and numbers; the first row is the lowest."""
    image = axes.imshow(shares, cmap="cividis", vmin=0, vmax=1, origin="lower", aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share < 0.5 else "black"
        axes.text(
            column, row, f"{share:.2f}".removeprefix("0"), ha="center", va="center", color=colour, fontsize="small"
        )
    return image


if __name__ == "__main__":
    main()
