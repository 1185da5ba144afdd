"""The differences between variants, paired by seed or by document, and their p-values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.reporting.comparison import VariantResults
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.statistics import CONFIDENCE, Estimate, Mean, bootstrap_p_value, hedges_g

Right = Literal["rows", "answers"]

EFFECT = "g is Hedges' effect size: the difference in units of the standard deviation between seeds"


@dataclass(frozen=True)
class PairedDifference:
    """The share of rows, or of answers at all depths together, that `better` gets right less that of `other`, paired by
    seed; with Student's interval.

    effect: Hedges' g, None with two seeds or where no seed differs from another; ahead: of how many seeds the
    difference is above 0.
    """

    better: str
    other: str
    mean: Mean
    effect: float | None
    ahead: int
    right: Right = "rows"

    def __str__(self) -> str:
        return f"{_signed(self.mean.mean, 3)} ± {self.mean.half_width:.3f}"

    @property
    def p_value(self) -> float:
        return self.mean.p_value


@dataclass(frozen=True)
class PositionDifference:
    """The nats per token of `better` less those of `other`, paired by document.

    bins: bin -> difference, by the tokens of the window that were read, and last of all tokens after the first window;
    whole: the last one for each seed.
    """

    better: str
    other: str
    bins: dict[str, Estimate]
    whole: list[Estimate]

    @property
    def p_value(self) -> float:
        """Student's over seeds, like the intervals; over documents for one training."""
        if len(self.whole) == 1:
            return bootstrap_p_value(self.whole[0])
        return Mean.of([each.value for each in self.whole]).p_value


Difference = PairedDifference | PositionDifference
TableText = tuple[list[str], list[list[str]]]  # head, rows


def differences(variants: Sequence[VariantResults]) -> list[PairedDifference]:
    """All pairs of variants that can be compared, the largest difference first."""
    both_ways = [(difference(two, one), difference(one, two)) for one, two in itertools.combinations(variants, 2)]
    found = [one if one.mean.mean >= 0 else two for one, two in both_ways if one and two]
    return sorted(found, key=lambda difference: -difference.mean.mean)


def difference(better: VariantResults, other: VariantResults, right: Right = "rows") -> PairedDifference | None:
    """The paired difference, which may be negative; None unless the test rows of both ask the same questions, and two
    seeds at least are common."""
    first, second = (
        {result.seed: _right(result.accuracy, right) for result in variant.results} for variant in (better, other)
    )
    common = sorted(first.keys() & second.keys())
    if len(common) < 2 or better.asks != other.asks:
        return None
    one, two = ([of_seed[seed] for seed in common] for of_seed in (first, second))
    found = [a - b for a, b in zip(one, two, strict=True)]
    ahead = sum(each > 0 for each in found)
    return PairedDifference(better.name, other.name, Mean.of(found), hedges_g(one, two), ahead, right)


def _right(accuracy: Accuracy, right: Right) -> float:
    if right == "rows":
        return accuracy.rows.value
    answers = accuracy.answers.values()
    return sum(share.right for share in answers) / sum(share.total for share in answers)


def position_differences(variants: Sequence[VariantResults]) -> list[PositionDifference]:
    """The differences by position of all pairs of variants that have them."""
    return [
        PositionDifference(
            variant.name,
            other,
            {each.name: nats for each, nats in bins.items()},
            [found.less[other][-1].nats for found in variant.positions if other in found.less],
        )
        for variant in variants
        for other, bins in variant.less_than.items()
    ]


def difference_table(found: Sequence[PairedDifference], adjusted: Sequence[float]) -> TableText:
    """found: all of rows, or all of answers; adjusted: the adjusted p of each."""
    rows = [
        [
            f"{each.better} - {each.other}",
            str(each),
            str(each.mean.seeds),
            "" if each.effect is None else _signed(each.effect, 1),
            *_tested(each, p),
        ]
        for each, p in zip(found, adjusted, strict=True)
    ]
    (right,) = {each.right for each in found}
    what = f"{right} right, paired by seed"
    head = [what, "difference, 95 % interval", "seeds", "g", "p", "adjusted p", "clear of 0"]
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


def correction(family: str, count: int, here: int | None = None) -> str:
    """What the columns of a table of differences mean, as text. family, count: which comparisons the correction is for,
    and how many; here: how many of them the table has, if not all."""
    comparisons = "one comparison" if count == 1 else f"{count} comparisons"
    part = "" if here is None else f", {here} of them here"
    return (
        f"Adjusted p: Holm's method over the {comparisons} of {family}{part}. A difference is clear of 0 if its "
        "adjusted p is below 0.05. Intervals are not adjusted."
    )


def is_clear(adjusted: float) -> bool:
    """Whether a difference with this adjusted p is clear of 0."""
    return adjusted < 1 - CONFIDENCE


def _tested(found: Difference, adjusted: float) -> tuple[str, str, str]:
    return _shown(found.p_value), _shown(adjusted), "yes" if is_clear(adjusted) else "no"


def _signed(value: float, digits: int) -> str:
    """The number with its sign, unless it rounds to 0."""
    shown = f"{value:+.{digits}f}"
    return shown if float(shown) else shown[1:]


def _shown(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
