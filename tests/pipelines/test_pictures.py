"""The pictures of a report, and their titles."""

import math
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipelines.reporting import headlines, plots
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.sections import sections
from sleepmodel.evaluation.statistics import Estimate
from tests.pipelines.reports import TRIALS, data, history, result, share


def test_bars_are_drawn_to_the_ends_of_their_interval() -> None:
    low, high = plots._error_lengths(Estimate(0.9, (0.7, 1.0))).ravel()
    assert (0.9 - low, 0.9 + high) == pytest.approx((0.7, 1.0))


def test_each_picture_says_in_its_title_what_it_shows(figures: dict[str, Figure]) -> None:
    """n1 gets 10, 20 and 30 of 200 rows right with its seeds, n<2> twice as many."""
    titles = {name: figure.get_suptitle().replace("\n", " ") for name, figure in figures.items()}
    assert titles == {
        "comparison": "n<2> is right in 0.200 of test rows, n1 in 0.100",
        "depths": "At depth 4, n<2> is right in 0.400 of answers, n1 in 0.200",
        "learning-curves": "At the end of training, every variant is right in 0.600 of validation rows",
        "search": "N = 1, eta = 0.5 wins with 0.610",
        "costs": "A token awake takes 0.5 ms; a sleep takes 0.1 ms at N = 1, 1.2 at N = 2",
        "memory": "After 65,536 tokens n1 keeps 2.05 kB a row; its KV cache would be 4.19 MB",
    }


@pytest.mark.parametrize(
    ("depths", "places"),
    [
        ([2, 4, 6, 8], [0, 1, 2, 3]),
        ([1, 2, 4, 8, 16], [0, 1, 2, 3, 4]),
        ([0, 4, 300], [0, 1, 2]),
        ([2, 3, 64], [0, math.log2(1.5), 5]),
    ],
)
def test_depths_over_a_wide_range_have_a_logarithmic_axis(depths: list[int], places: list[float]) -> None:
    assert list(plots._depth_places(depths).values()) == pytest.approx(places)


def test_depths_that_lie_close_together_are_not_written_over_one_another(figures: dict[str, Figure]) -> None:
    depths = [1, 2, 4, 5, 8, 13, 16, 29, 32, 61, 64, 200]
    found = result("n1", 3, 1, 20)
    accuracy = replace(found.accuracy, answers={depth: found.accuracy.answers[1] for depth in depths})
    plots.by_depth_or_passes(
        [VariantResults("n1", [replace(found, accuracy=accuracy)])], plots.styles(["n1"]), Path(os.devnull)
    )
    left = figures["null"].axes[0]
    assert left.get_xticks().tolist() == pytest.approx([math.log2(depth) for depth in depths])
    labels = [label for label in left.get_xticklabels() if label.get_text()]
    shown = [label.get_text() for label in labels]
    assert {"1", "2", "4", "8", "16", "32", "64", "200"} <= set(shown) and not {"29", "61"} & set(shown)
    boxes = [label.get_window_extent() for label in labels]
    assert all(before.x1 < after.x0 for before, after in pairwise(boxes))
    few = [label.get_text() for label in figures["depths"].axes[0].get_xticklabels()]
    assert few == ["1", "4"]


def test_a_headline_names_the_paper_s_eta_where_another_is_better() -> None:
    base = data().variants[1]

    def at(eta: float, right: int) -> VariantResults:
        return VariantResults(f"eta{eta}", [replace(result("x", 3, 2, right), fast_weight_lr=eta)])

    assert headlines.etas([at(0.5, 20), at(1.0, 60), at(1.5, 90)]) == (
        "N = 2, eta = 1.5 is right in 0.450 of test rows, the most of all; eta = 1 reaches 0.300 there"
    )
    trials = [replace(TRIALS[0], fast_weight_lr=1.0), replace(TRIALS[1], complete=True)]
    assert headlines.search(trials, trials[1]) == "N = 4, eta = 1.5 wins with 0.720; eta = 1 reaches 0.610 at best"
    assert headlines.comparison([base]) == "n<2> is right in 0.200 of test rows"
    worse = at(0.25, 2)
    assert headlines.comparison([base, worse]).endswith("n<2> is right in 0.200 of test rows, eta0.25 in 0.010")


def test_a_headline_compares_the_variants_that_it_is_given() -> None:
    variants = [VariantResults(name, [result(name, 3, 1, right)]) for name, right in (("a", 20), ("b", 60), ("c", 40))]
    assert headlines.comparison(variants, ("c", "a")) == "c is right in 0.200 of test rows, a in 0.100"
    assert headlines.etas(variants, ("a", "b")) == "a is right in 0.100 of test rows, b in 0.300"
    assert headlines.depths(variants, ("b", "c")) == "At depth 4, b is right in 0.600 of answers, c in 0.400"


def test_variants_of_one_depth_each_are_curves_by_their_passes(figures: dict[str, Figure]) -> None:
    def variant(passes: int, depth: int) -> VariantResults:
        found = result(f"n{passes}-t{depth}", 3, passes, 20)
        accuracy = replace(found.accuracy, answers={depth: share(60 + 10 * passes, 100)})
        return VariantResults(found.variant, [replace(found, accuracy=accuracy)])

    variants = [variant(passes, depth) for depth in (2, 4) for passes in (1, 2)]
    plots.by_depth_or_passes(variants, plots.styles([each.name for each in variants]), Path(os.devnull))
    (axes,) = figures["null"].axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == {
        "N = 1": [0.7, 0.7],
        "N = 2": [0.8, 0.8],
    }
    assert len(axes.collections) == 2  # an interval for each


def test_a_variant_has_one_colour_in_all_pictures_and_seeds_are_dots(figures: dict[str, Figure]) -> None:
    style = plots.styles(["n1", "n<2>"])
    for name in ("comparison", "depths", "learning-curves", "costs"):
        for axes in figures[name].axes:
            colours = {line.get_color() for line in axes.lines} - {"grey"}
            assert colours == {each.colour for each in style.values()}, name
    for axes in figures["learning-curves"].axes:
        joined = [line for line in axes.lines if line.get_linestyle() != "None"]
        dots = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert len(joined) == 2 and len(axes.collections) == 2  # a mean and its interval for each variant
        assert [len(line.get_xdata()) for line in dots] == [6, 6]  # two reports of three seeds
        assert all(line.get_alpha() == plots.FAINT for line in dots)
        assert list(joined[0].get_ydata()) == pytest.approx([0.3, 0.6])


def test_many_variants_are_told_apart_by_more_than_their_colour() -> None:
    found = plots.styles([f"v{i}" for i in range(20)])
    assert len(set(found.values())) == 20 and len({each.colour for each in found.values()}) == len(plots.PALETTE)
    assert plots.styles(["v0", "v1"])["v1"] == found["v1"]


def test_variants_at_several_etas_are_drawn_by_eta_and_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[int, list[VariantResults]] = {}
    monkeypatch.setattr(
        "pipelines.reporting.sections.plots.by_eta", lambda variants, path, told: drawn.update(variants)
    )
    monkeypatch.setattr("pipelines.reporting.sections.picture", lambda path, words: "")
    found = data()
    variants = [
        replace(variant, name=f"{variant.name}{eta}", results=[replace(r, fast_weight_lr=eta) for r in variant.results])
        for variant in found.variants
        for eta in (2.0, 0.5, 1.0)
    ]
    histories = {variant.name: [history()] * 3 for variant in variants}
    settings = {variant.name: found.settings["n1"] for variant in variants}
    several = replace(found, variants=variants, histories=histories, settings=settings, costs=[])
    headings = [heading for heading, _ in sections(several, tmp_path)]
    assert "N and eta" in headings and "N and eta" not in [heading for heading, _ in sections(found, tmp_path)]
    etas = {n: [variant.results[0].fast_weight_lr for variant in group] for n, group in drawn.items()}
    assert etas == {1: [0.5, 1.0, 2.0], 2: [0.5, 1.0, 2.0]}
    assert drawn[1][0].rows == variants[0].rows
