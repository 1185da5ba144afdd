"""Results that were never measured, and the page that tells them."""

import base64
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipelines.reporting import plots
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.html import page
from pipelines.reporting.mistakes import ConfusionCount, Mistakes, WrongAnswer
from pipelines.reporting.results import EvaluationResult
from pipelines.reporting.sections import ReportData, sections
from sleepmodel.distributed.trials import TrialResult
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.likelihood import Gap, Likelihood, TokenScores
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


def kept_figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Gets each picture that is drawn from now on, before it is a PNG, by its file's name."""
    kept: dict[str, Figure] = {}
    write = plots.write

    def keep(figure: Figure, title: str, path: Path) -> None:
        write(figure, title, path)
        kept[path.stem] = figure

    monkeypatch.setattr(plots, "write", keep)
    return kept
