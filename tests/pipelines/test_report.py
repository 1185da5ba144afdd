"""The report: one page that needs nothing beside it, with a section for all that there is and for nothing else."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from pipelines.reporting import headlines, plots
from pipelines.reporting.comparison import VariantResults, comparison_table, differences, floor_of, table_of
from pipelines.reporting.html import page
from pipelines.reporting.mistakes import ConfusionCount, Mistakes, WrongAnswer
from pipelines.reporting.results import EvaluationResult
from pipelines.reporting.sections import ReportData, sections
from pipelines.stages.report import markdown_summary
from sleepmodel.distributed.ray_tune import TrialResult
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.likelihood import Gap, Likelihood, TokenScores
from sleepmodel.evaluation.positions import NatsByPosition, PositionBin
from sleepmodel.evaluation.statistics import Estimate, Mean, Share
from sleepmodel.training.progress import Progress

TRIALS = [TrialResult(1, 0.5, 0.61, 0.6, 10_000, 3.0, True), TrialResult(4, 1.5, 0.72, 0.4, 5_000, 3.0, False)]


def share(right: int, total: int) -> Share:
    value = right / total
    return Share(right, total, (max(0.0, value - 0.02), min(1.0, value + 0.01)))


def result(variant: str, seed: int, passes: int, right: int) -> EvaluationResult:
    answers = {1: share(100, 100), 4: share(right, 100)}
    accuracy = Accuracy(share(right, 200), answers)
    path = f"{variant}-{seed}/model"
    return EvaluationResult(
        variant, seed, passes, 1.0, 2_000, 7.0, 6 * 10**9, 0.5, 1e4, None, 0.01, accuracy, path, "c0ffee"
    )


def scores(nats: float, right: int, total: int) -> TokenScores:
    return TokenScores(Estimate(nats, (nats - 0.05, nats + 0.1)), share(right, total))


def with_likelihood(found: EvaluationResult, own: float, other: float) -> EvaluationResult:
    """Answers of several tokens, in rows of two kinds."""
    kinds = {"other": scores(other, 30, 300), "own": scores(own, 120, 300)}
    depths = {1: scores(0.5, 100, 300), 4: scores(2.5, 50, 300)}
    whole, deep = (Estimate(gap, (gap - 0.1, gap + 0.1)) for gap in (other - own, (other - own) / 2))
    gap = Gap("other", "own", whole, {1: whole, 4: deep})
    exact = replace(found.accuracy, kinds={"other": share(2, 100), "own": share(50, 100)})
    measured = Likelihood(scores((own + other) / 2, 150, 600), depths, kinds, gap)
    return replace(found, accuracy=exact, likelihood=measured)


def history() -> list[Progress]:
    return [Progress(step, 2, 1_000 * step, 1.0, 1e3, 0.5, 1.0, 1.0, 0.3 * step, 10**9 * step) for step in (1, 2)]


def data(seeds: tuple[int, ...] = (3, 4, 5)) -> ReportData:
    variants = [
        VariantResults(name, [result(name, seed, passes, 10 * (seed - 2) * passes) for seed in seeds])
        for name, passes in (("n1", 1), ("n<2>", 2))
    ]
    model = {"window": 16, "mixers": ["attention"]}
    return ReportData(
        variants=variants,
        histories={variant.name: [history() for _ in seeds] for variant in variants},
        settings={
            variant.name: {"model": {**model, "sleep_passes": variant.sleep_passes}, "train": {"seed": 3}}
            for variant in variants
        },
        searches=[(TRIALS, TRIALS[0])],
        costs=[InferenceCost("n1", 1, 16, 0.5, 0.1, 1024, 64), InferenceCost("n<2>", 2, 16, 0.5, 1.25, 1024, 64)],
        mistakes=[
            Mistakes(
                "n1", 3, [ConfusionCount(4, "y1", "y2", 5, 9)], [WrongAnswer(17, 4, "y1 → y2, 4 hops <b>?", "y1", "y2")]
            )
        ],
    )


class Page(HTMLParser):
    """What stands in a page: headings, cells, pictures, and every tag with its attributes."""

    void = frozenset({"meta", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    @property
    def pictures(self) -> list[bytes]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [base64.b64decode(source.removeprefix("data:image/png;base64,"), validate=True) for source in sources]


def built(found: ReportData, directory: Path) -> Page:
    return Page(page("all <of> it", sections(found, directory)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return built(data(), tmp_path_factory.mktemp("report"))


def test_the_page_holds_each_section_and_its_pictures(whole: Page) -> None:
    assert whole.texts["h2"] == [
        "Comparison",
        "Accuracy by depth and N",
        "Paired differences",
        "Learning curves",
        "Search over N and eta",
        "Wake latency and sleep cost",
        "State against KV cache",
        "Wrong answers",
        "Trainings",
        "Settings",
    ]
    assert whole.texts["h1"] == ["all <of> it"]
    assert len(whole.pictures) == 6 and all(data.startswith(b"\x89PNG") for data in whole.pictures)


def test_the_page_needs_nothing_beside_it(whole: Page) -> None:
    names = {tag for tag, _ in whole.tags}
    assert not names & {"script", "link", "iframe", "object", "base", "a", "form"}
    for _, attributes in whole.tags:
        assert not {name for name in attributes if name.startswith("on")} | attributes.keys() & {"href", "srcset"}
    assert not re.search(r"url\(|@import|https?:", " ".join(whole.texts["style"]))


def test_the_page_tells_what_was_found(whole: Page) -> None:
    cells = whole.texts["td"]
    for told in (
        "n<2>",  # names and problems are text, whatever they hold
        "y1 → y2, 4 hops <b>?",
        "5 of 9",
        "1.250",
        "c0ffee",
        "2,048 (1,024)",  # 16 tokens: fast weights + window; the cache
        "2,048 (4,194,304)",  # 65,536 tokens
    ):
        assert told in cells, told
    assert cells.count("c0ffee") == 6 and {"3", "4", "5"} <= set(cells)


def test_what_is_not_there_is_left_out_and_the_rest_stays(whole: Page, tmp_path: Path) -> None:
    one_seed = replace(data((3,)), searches=[], costs=[], mistakes=[])
    headings = built(one_seed, tmp_path).texts["h2"]
    absent = {
        "Paired differences",
        "Search over N and eta",
        "Wake latency and sleep cost",
        "State against KV cache",
        "Wrong answers",
    }
    assert headings == [heading for heading in whole.texts["h2"] if heading not in absent]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.png", "depths.png", "learning-curves.png"]


def test_no_interval_of_a_share_leaves_0_and_1(whole: Page) -> None:
    intervals = [re.fullmatch(r"(\d\.\d+) \[(.+), (.+)\]", cell) for cell in whole.texts["td"]]
    found = [[float(number) for number in match.groups()] for match in intervals if match]
    assert len(found) >= 10
    assert all(0 <= low <= value <= high <= 1 for value, low, high in found)
    assert any(high == 1 for _, _, high in found) and any(low == 0 for _, low, _ in found)


def test_bars_are_drawn_to_the_ends_of_their_interval() -> None:
    low, high = plots._error_lengths(Estimate(0.9, (0.7, 1.0))).ravel()
    assert (0.9 - low, 0.9 + high) == pytest.approx((0.7, 1.0))


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Each picture of a report, before it is a PNG, by its file's name."""
    drawn: dict[str, Figure] = {}
    write = plots._write

    def keep(figure: Figure, title: str, path: Path) -> None:
        write(figure, title, path)
        drawn[path.stem] = figure

    monkeypatch.setattr(plots, "_write", keep)
    sections(data(), tmp_path)
    return drawn


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
        assert difference.clear == (test.pvalue < 0.05)


def test_variants_that_are_asked_at_other_depths_are_not_compared() -> None:
    one, two = list(_lines(np.random.default_rng()))[:2]
    deeper = [replace(r, accuracy=replace(r.accuracy, answers={8: share(1, 2)})) for r in two.results]
    assert differences([one, VariantResults("b", deeper)]) == []


def test_variants_at_several_etas_are_drawn_by_eta_and_n(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[int, list[VariantResults]] = {}
    monkeypatch.setattr("pipelines.reporting.sections.plots.by_eta", lambda variants, path: drawn.update(variants))
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


def remembering(seeds: tuple[int, ...]) -> list[VariantResults]:
    """Two variants of which the second remembers more, the more with a later seed."""
    return [
        VariantResults(
            name, [with_likelihood(result(name, seed, passes, 60), 2 - gap - seed / 100, 2.0) for seed in seeds]
        )
        for name, passes, gap in (("n1", 1, 0.0), ("n<2>", 2, 0.5))
    ]


def test_the_likelihood_has_a_section_with_kinds_depths_and_the_gap(tmp_path: Path) -> None:
    found = replace(data(), variants=remembering((3, 4, 5)))
    page = built(found, tmp_path)
    assert page.texts["h2"][:3] == ["Comparison", "Accuracy by depth and N", "Likelihood of the right answers"]
    assert (tmp_path / "likelihood.png").exists()
    mean = Mean.of([0.53, 0.54, 0.55])
    gap = str(Estimate(0.54, (0.54 - mean.half_width, 0.54 + mean.half_width)))
    cells = page.texts["td"]
    assert cells.count(gap) == 3  # in the comparison, and of all answers and of depth 1 in its own table
    assert sum(cell.startswith("0.270 [") for cell in cells) == 1  # of depth 4
    at = cells.index("own")
    assert cells[at - 2 : at + 2] == ["n1", "1", "own", "300"] and cells[at + 2].startswith("1.960 [")
    assert {"all", "other", "depth 1", "depth 4", "other - own"} <= set(cells)
    assert headlines.likelihood(found.variants) == ("other - own: 0.540 nats per answer token with n<2>, 0.040 with n1")
    plain = [
        replace(r, likelihood=replace(r.likelihood, kinds={}, gap=None))
        for variant in found.variants
        for r in variant.results[:1]
        if r.likelihood
    ]
    assert headlines.likelihood([VariantResults(r.variant, [r]) for r in plain]) == (
        "1.735 nats per answer token with n<2>, 1.985 with n1"
    )


def test_an_answer_of_one_token_adds_one_column_and_no_section(tmp_path: Path) -> None:
    """Rule 110: the likelihood is a column of the page's table, and the terminal's table stays as narrow as it was."""
    measured = Likelihood(scores(0.7, 60, 200), {1: scores(0.1, 100, 100), 4: scores(1.3, 60, 100)})
    variants = [
        VariantResults(variant.name, [replace(r, likelihood=measured) for r in variant.results])
        for variant in data((3,)).variants
    ]
    columns, rows = table_of(variants)
    assert columns == [
        "model",
        "N",
        "eta",
        "depth 1",
        "depth 4",
        "nats",
        "tokens",
        "FLOPs",
        "tokens/s",
        "s",
    ]
    assert rows[0][5] == "0.700 [0.650, 0.800]"
    headings = built(replace(data((3,)), variants=variants), tmp_path).texts["h2"]
    assert "Likelihood of the right answers" not in headings
    terminal = [column.header for column in comparison_table(variants).columns]
    assert terminal == [column for column in columns if column != "nats"]
    assert {"nats", "gap", "tokens right"} <= {column.header for column in comparison_table(remembering((3,))).columns}


def test_many_kinds_and_depths_are_for_the_page_alone(tmp_path: Path) -> None:
    """Facts: a kind for each sort of question and number of facts. A terminal has no room for them."""
    kinds = [f"{sort} at {facts} facts" for sort in ("recall", "hop", "change") for facts in (8, 16, 32)]
    measured = Likelihood(scores(0.7, 60, 400), {1: scores(0.1, 100, 200), 4: scores(1.3, 60, 200)}, {})
    measured = replace(measured, kinds={kind: scores(0.7, 20, 44) for kind in kinds})
    variants = [
        VariantResults(
            each.name,
            [
                replace(
                    r, likelihood=measured, accuracy=replace(r.accuracy, kinds={kind: share(1, 22) for kind in kinds})
                )
                for r in each.results
            ],
        )
        for each in data().variants
    ]
    assert set(kinds) <= set(table_of(variants)[0])
    terminal = [column.header for column in comparison_table(variants).columns]
    assert terminal == ["model", "N", "eta", "rows right", "tokens right", "nats", "tokens", "FLOPs", "tokens/s", "s"]
    page = built(replace(data(), variants=variants), tmp_path)
    assert set(kinds) <= set(page.texts["td"])


def test_results_without_a_likelihood_have_the_columns_that_they_had() -> None:
    columns, _ = table_of(data().variants)
    assert columns == ["model", "N", "eta", "depth 1", "depth 4", "tokens", "FLOPs", "tokens/s", "s"]


def positions(window: int, low: float) -> NatsByPosition:
    """The fewer nats the more of the window is read."""

    def found(bins: list[tuple[int, int]]) -> list[PositionBin]:
        nats = [low + 1 / (1 + first) for first, _ in bins]
        return [PositionBin(*ends, 64, Estimate(n, (n - 0.1, n + 0.1))) for ends, n in zip(bins, nats, strict=True)]

    return NatsByPosition(window, found([(1, 1), (2, 2), (3, 4)]), found([(0, 0), (1, 1)]))


def test_documents_have_their_nats_by_position(figures: dict[str, Figure], tmp_path: Path) -> None:
    found = data((3, 4))
    first, second = found.variants
    variants = [
        VariantResults(first.name, [replace(r, positions=positions(4, 2.0)) for r in first.results]),
        VariantResults(second.name, [replace(r, positions=positions(4, 1 + r.seed / 100)) for r in second.results]),
    ]
    page = built(replace(found, variants=variants), tmp_path)
    assert "Nats by position" in page.texts["h2"] and (tmp_path / "positions.png").exists()
    assert {"1", "2", "3-4", "0", "L"} <= set(page.texts["th"])
    assert "2.500 [2.500, 2.500]" in page.texts["td"]  # n1 after one token, the same with both seeds
    assert any(cell.startswith("1.285 [") for cell in page.texts["td"])  # n<2> after three or four
    assert figures["positions"].get_suptitle() == (
        "After 1 token of a window, 1.535 nats per answer token with n<2>, 2.500 with n1"
    )
    within, windows = figures["positions"].axes
    curves = [list(line.get_xdata()) for line in within.lines if line.get_linestyle() != "None"]
    assert curves == [[1, 2, 4], [1, 2, 4]]
    assert [label.get_text() for label in windows.get_xticklabels()] == ["0", "1"]
    assert "![nats by position](positions.png)" in markdown_summary("text", replace(found, variants=variants), tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert "Nats by position" not in built(found, other).texts["h2"]
    assert "nats" not in markdown_summary("task", found, other)
