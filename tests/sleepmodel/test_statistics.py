"""p-values, their correction for several comparisons, and the effect size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sleepmodel.evaluation.statistics import Estimate, Mean, hedges_g, holm

P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def test_holm_s_correction_is_the_one_computed_by_hand() -> None:
    # ascending: .005 x 4, .01 x 3, .03 x 2, and .04 x 1 = .04, which is raised to the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03] and holm([]) == []


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
    assert Mean.of([0.0, 0.0, 0.0]).p_value == 1 and Mean.of([0.25, 0.25]).p_value == 0
    assert Mean.of([0.5]).p_value == 1  # a single seed shows nothing


def test_the_p_value_of_an_estimate_is_that_of_its_interval() -> None:
    assert Estimate(1.96, (0.0, 3.92)).p_value == pytest.approx(0.05, abs=1e-4)
    assert Estimate(0.0, (-1.0, 1.0)).p_value == 1 and Estimate(0.2, (0.2, 0.2)).p_value == 0


def test_hedges_g_is_the_difference_in_standard_deviations_between_seeds() -> None:
    # means 2 and 7 / 6, variances 1 and 13 / 12; 1 - 3 / 7 for three pairs
    expected = (4 / 7) * (2 - 7 / 6) / np.sqrt((1 + 13 / 12) / 2)
    assert hedges_g([1.0, 2.0, 3.0], [0.0, 1.5, 2.0]) == pytest.approx(expected)
    # pairs that differ alike have a huge t, and no larger effect than their distance
    assert hedges_g([1.0, 2.0, 3.001], [0.0, 1.0, 2.0]) == pytest.approx(4 / 7, abs=1e-2)
    assert hedges_g([1.0, 1.0], [0.5, 0.5]) is None and hedges_g([1.0], [0.0]) is None
