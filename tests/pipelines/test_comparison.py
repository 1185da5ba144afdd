"""The table of variants, and their differences."""

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from pipelines.cli import LOG_WIDTH
from pipelines.reporting.comparison import VariantResults, comparison_table, floor_of, table_of
from pipelines.reporting.differences import (
    PairedDifference,
    PositionDifference,
    correction,
    difference,
    difference_table,
    differences,
    is_clear,
    position_differences,
)
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.positions import NatsByPosition, PositionBin
from sleepmodel.evaluation.statistics import Estimate, Mean, Share
from tests.pipelines.reports import data, result, share


def _lines(rng: np.random.Generator) -> Iterator[VariantResults]:
    for name, seeds in (("a", range(5)), ("b", range(1, 7)), ("c", range(4, 9)), ("alone", range(20, 22))):
        yield VariantResults(name, [result(name, seed, 1, int(rng.integers(0, 101))) for seed in seeds])


def test_paired_differences_are_over_the_common_seeds() -> None:
    variants = {variant.name: variant for variant in _lines(np.random.default_rng())}
    found = {frozenset((d.better, d.other)): d for d in differences(list(variants.values()))}
    assert found.keys() == {frozenset("ab"), frozenset("bc")}  # a and c share one seed, which gives no interval
    for each in found.values():
        values = [{r.seed: r.accuracy.rows.value for r in variants[name].results} for name in (each.better, each.other)]
        common = sorted(values[0].keys() & values[1].keys())
        better, other = ([of_line[seed] for seed in common] for of_line in values)
        test = stats.ttest_rel(better, other)
        low, high = test.confidence_interval(0.95)
        mean = each.mean
        assert mean.seeds == len(common) and mean.mean >= 0
        assert (mean.mean - mean.half_width, mean.mean + mean.half_width) == pytest.approx((low, high))
        assert each.p_value == pytest.approx(test.pvalue)


def test_variants_whose_tests_ask_other_questions_are_not_compared() -> None:
    """Of the same depths: such as hops on longer cycles."""
    first, second, third = (
        VariantResults(name, [replace(result(name, seed, 1, 50 + seed), questions=questions) for seed in range(3)])
        for name, questions in (("a", "0802"), ("b", "f3ce"), ("c", "0802"))
    )
    (found,) = differences([first, second, third])
    assert {found.better, found.other} == {"a", "c"}


@pytest.mark.parametrize(("value", "shown"), [(-0.0002, "0.000"), (0.0002, "0.000"), (0.2, "+0.200"), (-1, "-1.000")])
def test_a_difference_that_rounds_to_0_has_no_sign(value: float, shown: str) -> None:
    assert str(PairedDifference("a", "b", Mean(value, 0.001, 3), None, 0)) == f"{shown} ± 0.001"


def test_a_difference_is_clear_by_its_adjusted_p_alone() -> None:
    found = differences(list(_lines(np.random.default_rng(1))))
    head, (first, second) = difference_table(found, [0.0004, 0.06])
    assert head[-2:] == ["adjusted p", "clear of 0"]
    assert first[-2:] == ["< 0.001", "yes"] and second[-2:] == ["0.060", "no"]
    assert [row[4] for row in (first, second)] == [f"{each.p_value:.3f}" for each in found]


def test_a_difference_that_is_the_same_with_each_seed_is_not_clear_and_two_seeds_have_no_effect_size() -> None:
    def variant(name: str, *rights: int) -> VariantResults:
        return VariantResults(name, [result(name, seed, 1, right) for seed, right in enumerate(rights)])

    alike = difference(variant("a", 60, 70, 80), variant("b", 50, 60, 70))
    two = difference(variant("a", 60, 75), variant("b", 50, 70))
    assert alike and two and not is_clear(alike.p_value)
    _, rows = difference_table([alike, two], [alike.p_value, two.p_value])
    assert [row[-1] for row in rows] == ["no", "no"]
    assert rows[0][3] != "" and rows[1][3] == ""


def test_answers_are_compared_over_all_depths_together() -> None:
    """Where every row has a deep question, no row may be right, and half of the answers."""

    def variant(name: str, *shallow: int) -> VariantResults:
        answers = [{1: Share(right, 300), 4: Share(0, 100)} for right in shallow]
        made = [
            replace(result(name, seed, 1, 0), accuracy=Accuracy(Share(0, 100), of)) for seed, of in enumerate(answers)
        ]
        return VariantResults(name, made)

    better, other = variant("a", 280, 260, 300), variant("b", 80, 100, 60)
    rows, answers = difference(better, other), difference(better, other, "answers")
    assert rows and answers and rows.mean.mean == 0
    assert answers.mean.mean == pytest.approx((200 + 160 + 240) / 3 / 400) and answers.ahead == 3
    assert difference_table([answers], [0.01])[0][0] == "answers right, paired by seed"


def test_differences_by_position_are_tested_over_seeds_where_there_are_several() -> None:
    def less(value: float) -> NatsByPosition:
        whole = PositionBin(1, 9, 90, Estimate(value, (value - 0.1, value + 0.1)))
        return NatsByPosition(8, [], [], {"other": [whole]})

    def compared(*values: float) -> PositionDifference:
        results = [replace(result("a", seed, 1, 50), positions=less(value)) for seed, value in enumerate(values)]
        (found,) = position_differences([VariantResults("a", results)])
        return found

    assert compared(0.12, 0.11, 0.10).p_value == pytest.approx(0.0027437, rel=1e-4)  # scipy's ttest_1samp
    assert compared(0.1).p_value == pytest.approx(0.05, abs=1e-4)  # of the documents of one training


def test_a_variant_with_more_seeds_is_compared_by_those_of_the_other() -> None:
    """The variant before it has the first of three seeds alone."""
    whole = PositionBin(1, 9, 90, Estimate(0.2, (0.0, 0.4)))
    results = [
        replace(result("a", seed, 1, 50), positions=NatsByPosition(8, [], [], {"other": [whole]} if not seed else {}))
        for seed in range(3)
    ]
    for order in (results, results[::-1]):
        (found,) = position_differences([VariantResults("a", order)])
        assert found.other == "other" and found.p_value == pytest.approx(0.05, rel=0.01)


def test_the_note_on_the_correction_counts_in_words_that_fit() -> None:
    assert correction("this page", 73, 8).startswith(
        "Adjusted p: Holm's method over the 73 comparisons of this page, 8 of them here. A difference is clear of 0 if "
    )
    assert correction("this table", 1).startswith("Adjusted p: Holm's method over the one comparison of this table. A ")


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


def test_a_long_name_takes_lines_of_a_narrow_terminal_and_cuts_no_figure() -> None:
    long = "n1-with-the-compute-of-four-passes-in-epochs"
    answers = dict.fromkeys((1, 2, 3, 4), share(93, 100))
    variants = [
        VariantResults(name, [replace(result(name, 0, 1, 50), accuracy=Accuracy(share(50, 200), answers))])
        for name in ("n1", long)
    ]
    printed = Console(width=LOG_WIDTH, record=True, file=io.StringIO())
    printed.print(comparison_table(variants, LOG_WIDTH))
    said = printed.export_text()
    assert "…" not in said and " N " in said and said.count("0.930") == 8
    assert "".join(line.split("  ")[1] for line in said.splitlines() if line.startswith("  ")).count(long) == 1


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (200, ("0.930 [", "depth 4", "FLOPs")),
        (LOG_WIDTH, ("0.930", "depth 4", "FLOPs")),
        (80, ("0.500", "rows right", "FLOPs")),
        (40, ("0.500", "rows right")),
    ],
)
def test_what_a_terminal_has_no_room_for_is_left_out_whole(width: int, shown: tuple[str, ...]) -> None:
    answers = dict.fromkeys((1, 2, 3, 4), share(93, 100))
    variants = [VariantResults("n1", [replace(result("n1", 0, 1, 50), accuracy=Accuracy(share(50, 100), answers))])]
    printed = Console(width=width, record=True, file=io.StringIO())
    printed.print(comparison_table(variants, width))
    said = printed.export_text()
    assert "…" not in said and all(part in said for part in ("n1", " N ", *shown))
    for left_out in {"0.930 [", "depth 4", "FLOPs"} - set(shown):
        assert left_out not in said
