"""How long the experiments take, and which of them fit a night."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from rich.table import Table

from benchmarks.evidence.experiments import EXPERIMENTS, results_of
from benchmarks.evidence.publish import PUBLISHED, Published
from pipelines.runtime.cost_estimate import training_cost

CORES, NIGHT_HOURS = 2, 10
FLOPS_PER_SECOND = 3e10  # of a training on one core, as long as nothing is published


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
    published = {name: results for name in EXPERIMENTS if (results := _published(name))}
    rate = statistics.median([_flops_per_second(each) for each in published.values()] or [FLOPS_PER_SECOND])
    hours = dict[str, float]()
    for name, question in EXPERIMENTS.items():
        if name in published:
            seconds = sum(published[name].stage_seconds.values())
        else:
            seconds = training_cost(question.experiment).flops / rate
        # as many stages run together as there are cores, but a measurement of speed has all cores to itself
        hours[name] = seconds / (1 if question.speed else CORES) / 3600
    found, total = list[Planned](), 0.0
    for name in sorted(hours, key=lambda name: hours[name]):
        total += hours[name]
        found.append(Planned(name, hours[name], name in published, total <= NIGHT_HOURS))
    return found


def _published(name: str) -> Published | None:
    """None if it is not published, or by a version of the code whose results this one cannot read."""
    try:
        return PUBLISHED.load(results_of(name))
    except (FileNotFoundError, ValueError):
        return None


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
