"""The report: one page that needs nothing beside it, with a section for all that there is and for nothing else."""

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipelines.reporting import plots
from pipelines.reporting.comparison import VariantResults, differences, floor_of, table_of
from pipelines.reporting.html import page
from pipelines.reporting.mistakes import ConfusionCount, Mistakes, WrongAnswer
from pipelines.reporting.results import EvaluationResult
from pipelines.reporting.sections import ReportData, sections
from sleepmodel.distributed.ray_tune import TrialResult
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.statistics import Estimate, Share
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
        "What was answered instead",
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
        "What was answered instead",
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
    low, high = plots._arms(Estimate(0.9, (0.7, 1.0))).ravel()
    assert (0.9 - low, 0.9 + high) == pytest.approx((0.7, 1.0))


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
    drawn: dict[int, list[tuple[float, Estimate]]] = {}
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
    headings = [
        heading
        for heading, _ in sections(replace(found, variants=variants, histories=histories, settings=settings), tmp_path)
    ]
    assert "N and eta" in headings and "N and eta" not in [heading for heading, _ in sections(found, tmp_path)]
    assert {n: [eta for eta, _ in points] for n, points in drawn.items()} == {1: [0.5, 1.0, 2.0], 2: [0.5, 1.0, 2.0]}
    assert drawn[1][0][1] == variants[0].rows


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
