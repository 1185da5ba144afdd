"""Estimate what the paper's presets cost on 1, 8 and 64 GPUs, and fill the tables of docs/scaling.md.

    python -m benchmarks.scaling

Reads benchmarks/results/generation.json and, if there is one, gpu.json. Without a measured GPU the estimate assumes
ASSUMED_FLOPS, and the page says so.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from benchmarks.arguments import command_parser
from benchmarks.evidence.pages import SCALING, fill
from benchmarks.results_file import ROOT, read_result
from pipelines.config.experiment import Experiment, step_flops
from pipelines.config.presets import PRESETS
from pipelines.config.variant import Variant
from pipelines.reporting.markdown import markdown_table
from pipelines.runtime.cost_estimate import longest_chain
from sleepmodel.accounting import n_params
from sleepmodel.config.training import Search
from sleepmodel.model import SleepModel

PAPER = [
    experiment for experiment in PRESETS.values() if experiment.paper_scale and experiment.name != "throughput-fig6"
]
GPUS = (1, 8, 64)
ASSUMED_FLOPS = 1e14  # a tenth of an H100's dense bfloat16 peak
# number of workers -> assumed bytes/s of all-reduce for each: 8 share a machine, 64 are on 8 machines
LINKS = {1: math.inf, 8: 1e11, 64: 5e9}
LEAST_TRAININGS = (
    4  # in whole trainings, of a search: eight trials, of which ASHA keeps half after a quarter and half of the steps
)
KERNELS_A_RUN = 91  # of a block forward and backward, compiled: 6,213 in a step of 68 runs (gpu.json, N = 4)
KERNEL_SECONDS = 3e-6  # assumed, of the smallest kernel in a CUDA graph
GRADIENT_BYTES = 4


@dataclass(frozen=True)
class TrainingLoad:
    """One training of a preset: its steps, and of each step the FLOPs, how often a block is run on a window, and the
    bytes of gradients."""

    name: str
    steps: int
    flops: float
    runs: int
    gradients: int

    def seconds(self, gpus: int, rate: float) -> float:
        """Seconds on `gpus` data-parallel GPUs of `rate` FLOP/s: max(compute, kernels) + all-reduce."""
        sent = 2 * (gpus - 1) / gpus * self.gradients / LINKS[gpus]
        return self.steps * (max(self.flops / gpus / rate, self.runs * KERNELS_A_RUN * KERNEL_SECONDS) + sent)


def main() -> None:
    measured = read_result("gpu") if (ROOT / "results" / "gpu.json").exists() else None
    # at N = 1 to 4, compiled and replayed as CUDA graphs
    steps = (
        [row for name, rows in measured["parts"].items() if name.endswith("/both") for row in rows] if measured else []
    )
    rate = statistics.median(row["flops_per_second"] for row in steps) if measured else ASSUMED_FLOPS
    source = f"measured on {measured['device']} with rule110-fig2b" if measured else "assumed, not measured"
    blocks = {
        "rate": f"One GPU computes {rate:.1e} FLOP/s ({source}). A kernel takes at least {KERNEL_SECONDS * 1e6:.0f} us "
        f"(assumed), and a block that runs on a window, forward and backward, is {KERNELS_A_RUN} kernels.",
        "generation": _generation(),
        "training": _training(rate),
        "parallel": _parallel(rate),
        "tuning": _tuning(rate),
    }
    fill(SCALING, blocks)
    Console().print(f"page {SCALING}", highlight=False, soft_wrap=True)


def training_loads(experiment: Experiment) -> list[TrainingLoad]:
    """The training of each variant of a preset, for one seed."""
    return [_training_load(experiment, variant) for variant in experiment.variants]


def _training_load(experiment: Experiment, variant: Variant) -> TrainingLoad:
    train = experiment.variant_train(variant)
    flops = step_flops(experiment.variant_model(variant), train, experiment.variant_task(variant))
    gradients = GRADIENT_BYTES * _parameters(experiment, variant)
    return TrainingLoad(variant.name, train.steps, flops, _runs(experiment, variant), gradients)


def _runs(experiment: Experiment, variant: Variant) -> int:
    """How often a step runs a block on a window: N times on each but the last, or once outside the loop."""
    model, row_length = experiment.variant_model(variant), experiment.variant_task(variant).row_length
    slept, blocks = math.ceil(row_length / model.window) - 1, len(model.mixers)
    looped = model.loop[1] - model.loop[0] if model.loop else blocks
    return experiment.scale.accumulation * (slept * (blocks - looped + model.sleep_passes * looped) + blocks)


def _parameters(experiment: Experiment, variant: Variant) -> int:
    return n_params(SleepModel.without_weights(experiment.variant_model(variant)))


def _generation() -> str:
    """CPU hours and bytes of each preset's training rows."""
    rates = read_result("generation")
    rows = []
    for experiment in PAPER:
        found = _rate_of(experiment, rates["tasks"])
        count = experiment.train_rows()
        hours = count / found["generate_rows_per_s"] * rates["ray_cpus"] / 3600
        size = count * found["bytes_per_row"] / 1e9
        rows.append((experiment.name, f"{count:,}", _short(hours), f"{size:,.1f}", _short(hours / 64 * 60)))
    return markdown_table(("preset", "training rows", "core hours", "GB", "minutes on 64 cores"), rows)


def _rate_of(experiment: Experiment, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The measured generation of the preset's task: of the same config if there is one, else of the same kind."""
    alike = [found for found in tasks if found["task"] == experiment.task.name]
    config = json.loads(json.dumps(asdict(experiment.task)))
    return next((found for found in alike if found["config"] == config), alike[0])


def _training(rate: float) -> str:
    """A table of all trainings of each preset on one GPU each. They take as long as the longest chain of a training and
    those that it starts from, or as their sum divided by the number of GPUs, whichever is longer."""
    rows = []
    for experiment in PAPER:
        hours = {load.name: load.seconds(1, rate) / 3600 for load in training_loads(experiment)}
        runs = {variant.name: len(experiment.variant_seeds(variant)) for variant in experiment.variants}
        total = sum(hours[name] * count for name, count in runs.items())
        longest = longest_chain(experiment.variants, hours)
        spread = [max(longest, total / gpus) for gpus in GPUS]
        count = sum(runs.values())
        rows.append((experiment.name, str(count), _short(total), _short(longest), *map(_short, spread)))
    head = (
        "preset",
        "trainings",
        "GPU hours",
        "longest chain, h",
        *(f"{gpus} GPU{'s' * (gpus > 1)}, h" for gpus in GPUS),
    )
    return markdown_table(head, rows)


def _parallel(rate: float) -> str:
    """A table of the longest training of each preset, data-parallel."""
    rows = []
    for experiment in PAPER:
        load = max(training_loads(experiment), key=lambda load: load.seconds(1, rate))
        hours = [load.seconds(gpus, rate) / 3600 for gpus in GPUS]
        shares = [hours[0] / (took * gpus) for took, gpus in zip(hours, GPUS, strict=True)]
        name = f"{experiment.name}: {load.name}"
        cells = [f"{_short(took)} ({share:.0%})" for took, share in zip(hours[1:], shares[1:], strict=True)]
        rows.append((name, f"{load.gradients / 1e6:,.0f}", _short(hours[0]), *cells))
    return markdown_table(("longest training", "gradients, MB", "1 GPU, h", "8 GPUs, h", "64 GPUs, h"), rows)


def _tuning(rate: float) -> str:
    """A table of a search with the default settings and one trial per GPU. The shortest search stops half of the trials
    at each rung of ASHA, the longest none."""
    search, rows = Search(), []
    for experiment in PAPER:
        each = [
            _training_load(experiment, Variant(name=f"n{n}", sleep_passes=n)).seconds(1, rate) / 3600
            for n in search.sleep_passes
        ]
        least, most = (trainings * sum(each) / len(each) for trainings in (LEAST_TRAININGS, search.trials))
        rows.append((experiment.name, *map(_short, each), f"{_short(least)} to {_short(most)}", _short(max(each))))
    trials = (f"N = {n}, h" for n in search.sleep_passes)
    return markdown_table(("preset", *trials, "search on 1 GPU, h", "8 or 64 GPUs, h"), rows)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


if __name__ == "__main__":
    command_parser("scaling", __doc__).parse_args()
    main()
