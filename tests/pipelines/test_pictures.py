"""The pictures of a report, and their titles."""

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.evidence import breakeven, unread
from benchmarks.evidence.experiments import EXPERIMENTS
from pipelines.reporting import headlines, plots
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.sections import sections
from pipelines.reporting.summary import markdown_summary
from sleepmodel.evaluation.statistics import Estimate
from tests.pipelines.reports import TRIALS, data, history, result, share, with_likelihood


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


def at_depths(name: str, passes: int, depths: list[int], right: int = 100) -> VariantResults:
    """One seed, with the same share of answers right at each depth."""
    found = result(name, 3, passes, 20)
    answers = dict.fromkeys(depths, share(right, 100))
    return VariantResults(name, [replace(found, accuracy=replace(found.accuracy, answers=answers))])


def draw_depths(variants: list[VariantResults], told: tuple[str, ...] = (), depth: int | None = None) -> None:
    plots.by_depth_or_passes(variants, plots.styles([each.name for each in variants]), Path(os.devnull), told, depth)


def marks_of(axes: Axes) -> list[Line2D]:
    """The marks with error bars, without the bars."""
    found = [container.lines[0] for container in axes.containers if isinstance(container, ErrorbarContainer)]
    assert all(found)
    return [line for line in found if line]


def x_of(mark: Line2D) -> float:
    return float(np.asarray(mark.get_xdata())[0])


def test_learning_curves_are_those_of_trainings(drawn: dict[str, Figure], tmp_path: Path) -> None:
    """A model that is also evaluated at another N has one curve, under its own name."""
    found = data()
    again = replace(found.variants[1], name="n<2>@4")
    histories = {**found.histories, again.name: found.histories["n<2>"]}
    sections(replace(found, variants=[*found.variants, again], histories=histories), tmp_path)
    axes = drawn["learning-curves"].axes[0]
    assert sorted(axes.get_legend_handles_labels()[1]) == ["n1", "n<2>"]


def test_no_variant_is_drawn_over_by_another_of_its_depth(drawn: dict[str, Figure]) -> None:
    """Curves are joined by N only where each N has one variant at each depth."""
    variants = [at_depths("n1-t2", 1, [2], 90), at_depths("n1-t4", 1, [4], 50), at_depths("n1-t4-deep", 1, [4], 99)]
    draw_depths(variants)
    (axes,) = drawn["null"].axes
    assert sorted(axes.get_legend_handles_labels()[1]) == ["n1-t2", "n1-t4", "n1-t4-deep"]


@pytest.mark.parametrize(
    ("depths", "scale"),
    [([2, 4, 6, 8], "linear"), ([2, 4, 8, 10], "log"), ([0, 4, 300], "linear"), ([2, 3, 64], "log")],
)
def test_the_distance_between_depths_is_true_or_logarithmic(
    depths: list[int], scale: str, drawn: dict[str, Figure]
) -> None:
    draw_depths([at_depths("n1", 1, depths)])
    (axes,) = drawn["null"].axes
    assert axes.get_xscale() == scale
    assert list(axes.get_xticks()) == depths == list(np.asarray(axes.lines[0].get_xdata()))


def test_the_variants_that_the_title_compares_cover_the_others(drawn: dict[str, Figure]) -> None:
    """Here all curves are the same, so that those below show only by their rings."""
    variants = [at_depths(name, 5, [1, 4, 256]) for name in ("a", "b", "c", "d")]
    draw_depths(variants, ("b", "a"))
    (axes,) = drawn["null"].axes
    lines = {line.get_label(): line for line in axes.lines if line.get_linestyle() != "None"}
    layers = [lines[name].get_zorder() for name in ("b", "a")]
    rings = marks_of(axes)
    assert layers[0] > layers[1] > max(ring.get_zorder() for ring in rings)
    assert [ring.get_fillstyle() for ring in rings] == ["none", "none"]
    assert all(ring.get_markersize() > lines["b"].get_markersize() for ring in rings)
    assert sum(isinstance(each, PolyCollection) for each in axes.collections) == 2  # their intervals
    # N may follow the depth: no legend claims that 5 passes ran at depth 256
    assert {text.get_text() for text in drawn["null"].legends[0].get_texts()} == {"a", "b", "c", "d"}
    draw_depths(variants, ("e",))
    assert drawn["null"].get_suptitle() == ""  # as no variant is shown that it could compare


def test_the_title_compares_where_it_is_told_to(drawn: dict[str, Figure]) -> None:
    variants = [at_depths("a", 1, [1, 2, 4]), at_depths("b", 2, [1, 2, 4], right=60), at_depths("c", 4, [1, 4])]
    draw_depths(variants, ("b", "a"), depth=2)
    assert drawn["null"].get_suptitle().replace("\n", " ") == "At depth 2, b is right in 0.600 of answers, a in 1.000"
    draw_depths(variants, depth=2)  # the best and the first of those that are asked there
    assert drawn["null"].get_suptitle().replace("\n", " ") == "At depth 2, a is right in 1.000 of answers, b in 0.600"


def test_marks_stand_beside_those_with_the_same_n(drawn: dict[str, Figure]) -> None:
    passes = [1, 1, 1, 2, 8]
    draw_depths([at_depths(f"v{i}", n, [6]) for i, n in enumerate(passes)])
    (axes,) = drawn["null"].axes
    marks = [x_of(line) for line in marks_of(axes)]
    costs = [replace(data().costs[0], variant=f"v{i}", sleep_passes=n) for i, n in enumerate(passes)]
    plots.costs(costs, plots.styles([cost.variant for cost in costs]), Path(os.devnull))
    for axes in drawn["null"].axes:
        assert [x_of(line) for line in axes.lines] == marks
    assert marks[0] < marks[1] == 1 < marks[2] and marks[3:] == [2, 8]


def test_a_row_s_label_adds_what_the_name_does_not_say() -> None:
    found = [
        ("n1", 1, 2.0),
        ("eta0.25-n2", 2, 0.25),
        ("eta-1", 1, 1.0),
        ("eta1.5-x", 16, 1.0),
        ("sleep@4", 4, 2.0),
        ("window64", 4, 2.0),
    ]
    variants = [
        VariantResults(each.name, [replace(r, fast_weight_lr=eta) for r in each.results])
        for name, passes, eta in found
        for each in [at_depths(name, passes, [6])]
    ]
    assert plots._labels(variants) == [
        "n1, eta = 2",
        "eta0.25-n2",
        "eta-1, N = 1",
        "eta1.5-x, N = 16, eta = 1",
        "sleep@4, eta = 2",
        "window64, N = 4, eta = 2",
    ]
    assert plots._labels([at_depths("iterated", 5, [1, 256])]) == ["iterated"]


def test_only_seeds_that_are_drawn_are_explained(figures: dict[str, Figure], tmp_path: Path) -> None:
    assert figures["comparison"].axes[0].get_xlabel().endswith("faint dots are seeds")
    one = data((3,)).variants
    plots.comparison(one, plots.styles([each.name for each in one]), tmp_path / "one.png")
    assert "seeds" not in figures["one"].axes[0].get_xlabel()


def test_a_report_of_one_depth_does_not_refer_to_a_picture_by_depth(tmp_path: Path) -> None:
    def summary(depths: list[int]) -> str:
        variants = [
            VariantResults(found.variant, [replace(found, accuracy=replace(found.accuracy, answers=answers))])
            for found in [with_likelihood(result("n1", 3, 1, 20), 1.0, 2.0)]
            for answers in [dict.fromkeys(depths, share(20, 100))]
        ]
        shown = replace(data(), variants=variants, histories={}, costs=[], mistakes=[], searches=[])
        sections(shown, tmp_path)
        return markdown_summary("x", shown, tmp_path)

    assert "depths.png" in summary([1, 4])
    assert "depths.png" not in summary([1]) and "likelihood.png" in summary([1])


def test_the_published_pictures_beside_the_reports_share_their_style(drawn: dict[str, Figure], tmp_path: Path) -> None:
    unread.redraw(tmp_path / "floor.png")
    breakeven.redraw(tmp_path / "costs.png")
    for name in ("floor", "costs"):
        figure = drawn[name]
        assert figure.get_suptitle() and not any(axes.get_title() or axes.get_legend() for axes in figure.axes)
        assert figure.legends  # below the axes
    style = plots.styles(EXPERIMENTS["iterated"].shown)
    (axes,) = drawn["floor"].axes
    colours = {str(line.get_label()).partition(",")[0]: line.get_color() for line in axes.lines}
    assert all(colours[name] == style[name].colour for name in unread.TOLD)
    _, memory = drawn["costs"].axes
    sizes = [line.get_markersize() for line in memory.lines]
    assert sizes == sorted(set(sizes), reverse=True)  # n1, n2 and n4 keep the same number of bytes


def test_depths_that_lie_close_together_are_not_written_over_one_another(figures: dict[str, Figure]) -> None:
    depths = [1, 2, 4, 5, 8, 13, 16, 29, 32, 61, 64, 200]
    draw_depths([at_depths("n1", 1, depths)])
    left = figures["null"].axes[0]
    assert left.get_xticks().tolist() == depths
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
    easier = worse.results[0]
    easier = replace(easier, accuracy=replace(easier.accuracy, answers={1: easier.accuracy.answers[1]}))
    other_rows = VariantResults("easier", [easier])
    assert headlines.comparison([base, other_rows, worse]) == headlines.comparison([base, worse])
    other_questions = VariantResults("longer cycles", [replace(worse.results[0], questions="c0ffee")])
    for title in (headlines.comparison, headlines.depths):
        assert title([base, other_questions, worse]) == title([base, worse])


def test_a_headline_compares_the_variants_that_it_is_given() -> None:
    variants = [VariantResults(name, [result(name, 3, 1, right)]) for name, right in (("a", 20), ("b", 60), ("c", 40))]
    assert headlines.comparison(variants, ("c", "a")) == "c is right in 0.200 of test rows, a in 0.100"
    assert headlines.etas(variants, ("a", "b")) == "a is right in 0.100 of test rows, b in 0.300"
    assert headlines.depths(variants, ("b", "c")) == "At depth 4, b is right in 0.600 of answers, c in 0.400"


def test_variants_of_one_depth_each_are_curves_by_their_passes(drawn: dict[str, Figure]) -> None:
    def variant(passes: int, depth: int) -> VariantResults:
        found = result(f"n{passes}-t{depth}", 3, passes, 20)
        accuracy = replace(found.accuracy, answers={depth: share(60 + 10 * passes, 100)})
        return VariantResults(found.variant, [replace(found, accuracy=accuracy)])

    variants = [variant(passes, depth) for depth in (2, 4) for passes in (1, 2)]
    plots.by_depth_or_passes(variants, plots.styles([each.name for each in variants]), Path(os.devnull))
    (axes,) = drawn["null"].axes
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
