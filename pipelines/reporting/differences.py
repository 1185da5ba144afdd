"""The differences between variants, paired by seed or by document, and their p-values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.reporting.comparison import VariantResults
from sleepmodel.evaluation.statistics import CONFIDENCE, Estimate, Mean, hedges_g

CORRECTION = (
    "Adjusted p is by Holm's method, for the {count} comparisons of {family}; a difference is clear of 0 if it is "
    "below 0.05. Intervals are not adjusted"
)
EFFECT = "g is Hedges' effect size: the difference in units of the standard deviation between seeds"


@dataclass(frozen=True)
class PairedDifference:
    """The share of rows that `better` gets right less that of `other`, paired by seed; with Student's interval, and
    Hedges' g, None where no seed differs from another."""

    better: str
    other: str
    mean: Mean
    effect: float | None

    def __str__(self) -> str:
        return f"{self.mean.mean:+.3f} ± {self.mean.half_width:.3f}"

    @property
    def p_value(self) -> float:
        return self.mean.p_value


@dataclass(frozen=True)
class PositionDifference:
    """The nats per token of `better` less those of `other`, paired by document: bin -> difference, by the tokens of the
    window that were read, and last of all tokens after the first window, which has the p-value."""

    better: str
    other: str
    bins: dict[str, Estimate]

    @property
    def p_value(self) -> float:
        return list(self.bins.values())[-1].p_value


Difference = PairedDifference | PositionDifference
TableText = tuple[list[str], list[list[str]]]  # head, rows


def differences(variants: Sequence[VariantResults]) -> list[PairedDifference]:
    """All pairs of variants that can be compared, the largest difference first."""
    both_ways = [(difference(two, one), difference(one, two)) for one, two in itertools.combinations(variants, 2)]
    found = [one if one.mean.mean >= 0 else two for one, two in both_ways if one and two]
    return sorted(found, key=lambda difference: -difference.mean.mean)


def difference(better: VariantResults, other: VariantResults) -> PairedDifference | None:
    """The paired difference, which may be negative; None unless both have test rows of the same depths, and two common
    seeds at least."""
    first, second = (
        {result.seed: result.accuracy.rows.value for result in variant.results} for variant in (better, other)
    )
    common = sorted(first.keys() & second.keys())
    if len(common) < 2 or better.answers.keys() != other.answers.keys():
        return None
    one, two = ([of_seed[seed] for seed in common] for of_seed in (first, second))
    return PairedDifference(
        better.name, other.name, Mean.of([a - b for a, b in zip(one, two, strict=True)]), hedges_g(one, two)
    )


def position_differences(variants: Sequence[VariantResults]) -> list[PositionDifference]:
    """The differences by position of all pairs of variants that have them."""
    return [
        PositionDifference(variant.name, other, {each.name: nats for each, nats in bins.items()})
        for variant in variants
        for other, bins in variant.less_than.items()
    ]


def difference_table(found: Sequence[PairedDifference], adjusted: Sequence[float]) -> TableText:
    """adjusted: the adjusted p of each."""
    rows = [
        [
            f"{each.better} - {each.other}",
            str(each),
            str(each.mean.seeds),
            "" if each.effect is None else f"{each.effect:+.1f}",
            *_tested(each, p),
        ]
        for each, p in zip(found, adjusted, strict=True)
    ]
    head = ["rows right, paired by seed", "difference, 95 % interval", "seeds", "g", "p", "adjusted p", "clear of 0"]
    return head, rows


def position_difference_table(found: Sequence[PositionDifference], adjusted: Sequence[float]) -> TableText:
    """adjusted: the adjusted p of each, of all tokens after the first window."""
    columns = list(dict.fromkeys(name for each in found for name in each.bins))
    rows = [
        [
            f"{each.better} - {each.other}",
            *(str(each.bins.get(name, "")) for name in columns),
            *_tested(each, p),
        ]
        for each, p in zip(found, adjusted, strict=True)
    ]
    return ["nats per token, paired by document", *columns, "p", "adjusted p", "clear of 0"], rows


def is_clear(adjusted: float) -> bool:
    """Whether a difference with this adjusted p is clear of 0."""
    return adjusted < 1 - CONFIDENCE


def _tested(found: Difference, adjusted: float) -> tuple[str, str, str]:
    return _shown(found.p_value), _shown(adjusted), "yes" if is_clear(adjusted) else "no"


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
