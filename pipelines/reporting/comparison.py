"""The variants of a comparison over their seeds, and how far they are apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.reporting.results import EvaluationResult, read_results
from sleepmodel.evaluation.statistics import Estimate, Mean

COSTS = ("tokens", "FLOPs", "tokens/s", "s")  # columns: of a variant's training
WIDE = 3  # shares that a terminal has room for with their intervals


@dataclass(frozen=True)
class VariantResults:
    """One variant, over its seeds: exact match of whole rows, and of answers by depth."""

    name: str
    results: list[EvaluationResult]

    @property
    def sleep_passes(self) -> int:
        return self.results[0].sleep_passes

    @property
    def label(self) -> str:
        return f"{self.name}\nN = {self.sleep_passes}, eta = {self.results[0].fast_weight_lr:.3g}"

    @property
    def values(self) -> list[float]:
        """Share of rows right, of each seed."""
        return [result.accuracy.rows.value for result in self.results]

    @property
    def rows(self) -> Estimate:
        """Share of rows right."""
        return Estimate.of([result.accuracy.rows for result in self.results])

    @property
    def answers(self) -> dict[int, Estimate]:
        """Depth -> share of answers right."""
        depths = sorted(self.results[0].accuracy.answers)
        return {d: Estimate.of([result.accuracy.answers[d] for result in self.results]) for d in depths}

    @property
    def kinds(self) -> dict[str, Estimate]:
        """Kind of problem -> share of rows right, where the task has several."""
        kinds = self.results[0].accuracy.kinds
        return {kind: Estimate.of([result.accuracy.kinds[kind] for result in self.results]) for kind in kinds}

    def cells(self, intervals: bool = True) -> dict[str, str]:
        """Column -> text, for a table."""
        first, answers = self.results[0], self.answers
        # where a row asks one thing, its rows right are its answers right
        several = sum(share.total for share in first.accuracy.answers.values()) > first.accuracy.rows.total
        shares = {"rows right": self.rows} if several else {}
        shares |= {f"depth {depth}": estimate for depth, estimate in answers.items()} | self.kinds
        return {
            "model": self.name,
            "N": str(first.sleep_passes),
            "eta": f"{first.fast_weight_lr:.3g}",
            **{column: str(share) if intervals else f"{share.value:.3f}" for column, share in shares.items()},
            **dict(zip(COSTS, self._costs(), strict=True)),
        }

    def _costs(self) -> tuple[str, ...]:
        first, rates = self.results[0], [result.tokens_per_second for result in self.results]
        seconds = np.mean([result.seconds for result in self.results])
        return f"{first.tokens / 1e6:.3g}M", f"{first.flops:.2g}", f"{np.median(rates):,.0f}", f"{seconds:.0f}"


@dataclass(frozen=True)
class PairedDifference:
    """How much more rows `better` gets right than `other` on their common seeds, so many, with Student's interval."""

    better: str
    other: str
    mean: Mean

    def __str__(self) -> str:
        return f"{self.mean.mean:+.3f} ± {self.mean.half_width:.3f}"

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return abs(self.mean.mean) > self.mean.half_width


def read_variants(evaluation: Path) -> list[VariantResults]:
    """The comparison in a finished evaluation, in the order of the preset."""
    results = read_results(evaluation)
    return [
        VariantResults(name, [r for r in results if r.variant == name])
        for name in dict.fromkeys(r.variant for r in results)
    ]


def differences(variants: Sequence[VariantResults]) -> list[PairedDifference]:
    """Every two variants that are asked at the same depths and have two seeds or more in common, the largest first."""
    both_ways = [(difference(two, one), difference(one, two)) for one, two in itertools.combinations(variants, 2)]
    found = [one if one.mean.mean >= 0 else two for one, two in both_ways if one and two]
    return sorted(found, key=lambda difference: -difference.mean.mean)


def difference(better: VariantResults, other: VariantResults) -> PairedDifference | None:
    """How much better the one is than the other, which may be less than nothing; None where they cannot be compared."""
    first, second = (
        {result.seed: result.accuracy.rows.value for result in variant.results} for variant in (better, other)
    )
    common = sorted(first.keys() & second.keys())
    if len(common) < 2 or better.answers.keys() != other.answers.keys():
        return None
    return PairedDifference(better.name, other.name, Mean.of([first[seed] - second[seed] for seed in common]))


def floor_of(variants: Sequence[VariantResults]) -> str:
    """What the commonest answer gets right of these variants' test rows."""
    floors = sorted({f"{result.floor:.3f}" for variant in variants for result in variant.results})
    return " to ".join(dict.fromkeys((floors[0], floors[-1])))


def interval_of(variants: Sequence[VariantResults]) -> str:
    """What the intervals of these variants are, in words."""
    seeds = max(len(variant.results) for variant in variants)
    return f"95 % interval over {seeds} seeds" if seeds > 1 else "95 % interval over test rows"


def table_of(variants: Sequence[VariantResults], intervals: bool = True) -> tuple[list[str], list[list[str]]]:
    """The columns of any variant, and a row of text a variant."""
    cells = [variant.cells(intervals) for variant in variants]
    found = dict.fromkeys(column for row in cells for column in row)
    # variants may be asked at other depths than the first: all shares stand before what a variant costs
    columns = [*(column for column in found if column not in COSTS), *COSTS]
    return columns, [[row.get(column, "") for column in columns] for row in cells]


def comparison_table(variants: Sequence[VariantResults]) -> Table:
    """The comparison for a terminal."""
    wide = max(len(variant.answers) + len(variant.kinds) for variant in variants) <= WIDE
    columns, rows = table_of(variants, intervals=wide)
    table = Table(
        title=f"held-out test rows right{', mean and ' + interval_of(variants) if wide else ''}", box=SIMPLE_HEAD
    )
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
