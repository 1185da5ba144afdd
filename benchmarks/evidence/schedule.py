"""How long the experiments take, and which of them fit a night."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from rich.table import Table

from benchmarks.evidence.experiments import EXPERIMENTS, results_of
from benchmarks.evidence.publish import PUBLISHED, Published
from pipelines.runtime.cost_estimate import training_cost

CORES, NIGHT_HOURS = 2, 10


@dataclass(frozen=True)
class Planned:
    """An experiment of the schedule. hours: on two cores; measured: when it was published, else estimated from its
    FLOPs; tonight: whether it runs unless others are named."""

    name: str
    hours: float
    measured: bool
    tonight: bool


def schedule() -> list[Planned]:
    """All experiments, the cheapest first. Those that fit a night together run by default."""
    published = {name: PUBLISHED.load(results_of(name)) for name in EXPERIMENTS if results_of(name).exists()}
    rate = statistics.median(_flops_per_second(found) for found in published.values())
    hours = {name: measured_hours(found) for name, found in published.items()}
    for name in EXPERIMENTS.keys() - hours.keys():
        hours[name] = training_cost(EXPERIMENTS[name].experiment).flops / rate / CORES / 3600
    found, total = list[Planned](), 0.0
    for name in sorted(hours, key=lambda name: hours[name]):
        total += hours[name]
        found.append(Planned(name, hours[name], name in published, total <= NIGHT_HOURS))
    return found


def measured_hours(found: Published) -> float:
    """Its stages took so long, of which as many run together as there are cores."""
    return sum(found.stage_seconds.values()) / CORES / 3600


def _flops_per_second(found: Published) -> float:
    """The rate of its trainings, over all of their time."""
    results = [result for seeds in found.variants.values() for result in seeds]
    return sum(result.flops for result in results) / sum(result.seconds for result in results)


def schedule_table(planned: list[Planned]) -> Table:
    """The schedule as a table for a terminal."""
    night = sum(each.hours for each in planned if each.tonight)
    table = Table(
        "experiment",
        "preset",
        "seeds",
        "hours",
        "by default",
        title=f"on {CORES} cores; a night of {NIGHT_HOURS} hours is filled with {night:.1f}; ~ is an estimate",
    )
    for each in planned:
        question = EXPERIMENTS[each.name]
        seeds = ", ".join(map(str, question.seeds))
        hours = f"{'' if each.measured else '~'}{each.hours:.1f}"
        table.add_row(each.name, question.preset, seeds, hours, "yes" if each.tonight else "no: name it to run it")
    return table
