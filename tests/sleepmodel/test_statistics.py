"""p-values, their correction for several comparisons, and the effect size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sleepmodel.evaluation.statistics import Estimate, Mean, Share, bootstrap_p_value, hedges_g, holm

P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def test_holm_s_correction_is_the_one_computed_by_hand() -> None:
    # ascending: .005 x 4, .01 x 3, .03 x 2, and .04 x 1 = .04, which is raised to the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03] and holm([]) == []


def test_comparisons_without_a_p_value_yet_count_as_the_largest() -> None:
    few, whole = [0.01, 0.002], [0.01, 0.002, 0.9, 1.0, 0.7]
    assert holm(few, family=5) == pytest.approx([0.04, 0.01]) == holm(whole)[:2]
    with pytest.raises(ValueError, match="family = 1: must be at least 2, the number of p-values"):
        holm(few, family=1)


@given(P_VALUES)
def test_an_adjusted_p_is_no_smaller_keeps_the_order_and_is_a_probability(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert all(before[1] <= after[1] for before, after in itertools.pairwise(ranked))


@given(P_VALUES, st.randoms())
def test_the_order_of_comparisons_does_not_matter(p_values: list[float], shuffle) -> None:  # type: ignore[no-untyped-def]
    places = list(range(len(p_values)))
    shuffle.shuffle(places)
    adjusted = holm(p_values)
    assert holm([p_values[i] for i in places]) == [adjusted[i] for i in places]


def test_the_p_value_of_a_mean_is_student_s() -> None:
    values = np.random.default_rng(7).normal(0.3, 1, 5).tolist()
    assert Mean.of(values).p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert Mean.of([0.12, 0.11, 0.10]).p_value == pytest.approx(0.0027437, rel=1e-4)  # scipy's ttest_1samp


@pytest.mark.parametrize("values", [[0.5], [0.0, 0.0, 0.0], [0.25, 0.25], [0.3 - 0.2, 0.2 - 0.1, 0.1]])
def test_seeds_that_do_not_differ_show_nothing(values: list[float]) -> None:
    assert Mean.of(values).p_value == 1


def test_the_p_value_of_a_bootstrap_is_that_of_its_interval() -> None:
    assert bootstrap_p_value(Estimate(1.96, (0.0, 3.92))) == pytest.approx(0.05, abs=1e-4)
    assert bootstrap_p_value(Estimate(0.0, (-1.0, 1.0))) == 1 == bootstrap_p_value(Estimate(0.2, (0.2, 0.2)))


def test_intervals_over_seeds_stay_where_the_values_can_be() -> None:
    shares = [Share(right, 10) for right in (1, 5, 9)]
    nats = [Estimate(value, (value, value)) for value in (0.1, 0.5, 2.5)]
    assert Estimate.of(shares).interval == (0, 1)
    low, high = Estimate.of(nats).interval
    assert low < 0 and Estimate.of(nats, least=0.0).interval == (0, high)


def test_a_number_that_rounds_to_0_has_no_sign() -> None:
    assert str(Estimate(-0.0001, (-0.0002, -0.00005))) == "0.000 [0.000, 0.000]"
    assert str(Estimate(-0.0006, (-1.5, 2.0))) == "-0.001 [-1.500, 2.000]"


def test_hedges_g_is_the_difference_in_standard_deviations_between_seeds() -> None:
    # means 2 and 7 / 6, variances 1 and 13 / 12; 1 - 3 / 7 for three pairs
    expected = (4 / 7) * (2 - 7 / 6) / np.sqrt((1 + 13 / 12) / 2)
    assert hedges_g([1.0, 2.0, 3.0], [0.0, 1.5, 2.0]) == pytest.approx(expected)
    # pairs that differ alike have a huge t, and no larger effect than their distance
    assert hedges_g([1.0, 2.0, 3.001], [0.0, 1.0, 2.0]) == pytest.approx(4 / 7, abs=1e-2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1.0], [0.0]),
        ([0.4, 0.6], [0.1, 0.2]),  # Hedges' factor is 0 for two pairs
        ([1.0, 1.0, 1.0], [0.5, 0.5, 0.5]),
        ([0.3 - 0.2, 0.2 - 0.1, 0.1], [0.0, 0.0, 0.0]),  # equal but for rounding
    ],
)
def test_too_few_pairs_or_no_spread_have_no_effect_size(first: list[float], second: list[float]) -> None:
    assert hedges_g(first, second) is None
