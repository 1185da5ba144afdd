"""The table of variants, and their differences."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pipelines.reporting.comparison import VariantResults, floor_of, table_of
from pipelines.reporting.differences import difference_table, differences
from sleepmodel.evaluation.accuracy import Accuracy
from tests.pipelines.reports import data, result, share


def _lines(rng: np.random.Generator) -> Iterator[VariantResults]:
    for name, seeds in (("a", range(5)), ("b", range(1, 7)), ("c", range(4, 9)), ("alone", range(20, 22))):
        yield VariantResults(name, [result(name, seed, 1, int(rng.integers(0, 101))) for seed in seeds])


def test_paired_differences_are_over_the_common_seeds() -> None:
    variants = {variant.name: variant for variant in _lines(np.random.default_rng())}
    found = {frozenset((d.better, d.other)): d for d in differences(list(variants.values()))}
    assert found.keys() == {frozenset("ab"), frozenset("bc")}  # a and c share one seed, which gives no interval
    for difference in found.values():
        values = [
            {r.seed: r.accuracy.rows.value for r in variants[name].results}
            for name in (difference.better, difference.other)
        ]
        common = sorted(values[0].keys() & values[1].keys())
        better, other = ([of_line[seed] for seed in common] for of_line in values)
        test = stats.ttest_rel(better, other)
        low, high = test.confidence_interval(0.95)
        mean = difference.mean
        assert mean.seeds == len(common) and mean.mean >= 0
        assert (mean.mean - mean.half_width, mean.mean + mean.half_width) == pytest.approx((low, high))
        assert difference.p_value == pytest.approx(test.pvalue)


def test_a_difference_is_clear_by_its_adjusted_p_alone() -> None:
    found = differences(list(_lines(np.random.default_rng(1))))
    head, (first, second) = difference_table(found, [0.0004, 0.06])
    assert head[-2:] == ["adjusted p", "clear of 0"]
    assert first[-2:] == ["< 0.001", "yes"] and second[-2:] == ["0.060", "no"]
    assert [row[4] for row in (first, second)] == [f"{each.p_value:.3f}" for each in found]


def test_variants_that_are_asked_at_other_depths_are_not_compared() -> None:
    one, two = list(_lines(np.random.default_rng()))[:2]
    deeper = [replace(r, accuracy=replace(r.accuracy, answers={8: share(1, 2)})) for r in two.results]
    assert differences([one, VariantResults("b", deeper)]) == []


def test_the_floor_of_variants_on_several_tasks_is_a_range() -> None:
    one, two = data().variants
    assert floor_of([one, two]) == "0.010"
    assert floor_of([one, VariantResults("b", [replace(r, floor=0.25) for r in two.results])]) == "0.010 to 0.250"


def test_variants_that_are_asked_at_other_depths_share_a_table() -> None:
    def variant(name: str, depth: int) -> VariantResults:
        asked = Accuracy(share(60, 100), {depth: share(60, 100)})
        return VariantResults(name, [replace(result(name, 3, 1, 60), accuracy=asked)])

    columns, rows = table_of([variant("n1-t2", 2), variant("n1-t8", 8)], intervals=False)
    assert columns == ["model", "N", "eta", "depth 2", "depth 8", "tokens", "FLOPs", "tokens/s", "s"]
    assert [row[3:6] for row in rows] == [["0.600", "", "0.002M"], ["", "0.600", "0.002M"]]


def test_kinds_of_problems_have_columns_of_their_own() -> None:
    kinds = {"forward": share(20, 50), "reverse": share(40, 50)}
    each = [result("n1", seed, 1, 60) for seed in (3, 4)]
    variant = VariantResults("n1", [replace(one, accuracy=replace(one.accuracy, kinds=kinds)) for one in each])
    cells = variant.cells(intervals=False)
    assert (cells["forward"], cells["reverse"]) == ("0.400", "0.800")


def test_results_without_a_likelihood_have_the_columns_that_they_had() -> None:
    columns, _ = table_of(data().variants)
    assert columns == ["model", "N", "eta", "depth 1", "depth 4", "tokens", "FLOPs", "tokens/s", "s"]
