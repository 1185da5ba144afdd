"""Fill in the tables and pictures of the pages from what is published, without training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.experiments import EXPERIMENTS, Question, results_of
from benchmarks.evidence.pages import fill
from benchmarks.evidence.publish import PUBLISHED, published_variants, render
from benchmarks.results_file import ROOT
from pipelines.reporting.differences import (
    CORRECTION,
    EFFECT,
    Difference,
    PairedDifference,
    PositionDifference,
    difference,
    difference_table,
    position_difference_table,
    position_differences,
)
from pipelines.reporting.markdown import markdown_table
from pipelines.stages.report import MARKDOWN
from sleepmodel.evaluation.statistics import holm


def fill_tables(page: Path) -> None:
    """Fill in the block of each published experiment of the page. The comparisons of all of them are one family, so a
    new experiment changes the adjusted p of the others."""
    adjusted = adjusted_comparisons(page)
    count = sum(len(found) for found in adjusted.values())
    blocks = {}
    for name in adjusted:
        question, directory = EXPERIMENTS[name], results_of(name)
        render(directory, question.shown, question.told)
        blocks[name] = _speed(directory) if question.speed else _quoted(directory / MARKDOWN)
        if adjusted[name]:
            blocks[name] += f"\n\n{_differences(adjusted[name], count)}"
    fill(page, blocks)


def adjusted_comparisons(page: Path) -> dict[str, list[tuple[Difference, float]]]:
    """Published experiment of the page -> its comparisons, each with its p adjusted for all comparisons of the page."""
    found = {
        name: comparisons(question, results_of(name))
        for name, question in EXPERIMENTS.items()
        if question.page == page and results_of(name).exists()
    }
    adjusted = iter(holm([each.p_value for own in found.values() for each in own]))
    return {name: [(each, next(adjusted)) for each in own] for name, own in found.items()}


def comparisons(question: Question, published: Path) -> Sequence[Difference]:
    """The differences between the experiment's pairs, as far as they have an interval."""
    variants = {variant.name: variant for variant in published_variants(published)}
    if question.documents:
        by_pair = {(each.better, each.other): each for each in position_differences(list(variants.values()))}
        return [by_pair[pair] for pair in question.pairs]
    found = [difference(variants[better], variants[other]) for better, other in question.pairs]
    return [each for each in found if each]


def _differences(tested: Sequence[tuple[Difference, float]], count: int) -> str:
    """The table of some comparisons of a page, which has so many."""
    adjusted = [p for _, p in tested]
    by_seed = [each for each, _ in tested if isinstance(each, PairedDifference)]
    by_document = [each for each, _ in tested if isinstance(each, PositionDifference)]
    words = CORRECTION.format(count=count, family=f"this page, of which {len(tested)} are in this table")
    if by_document:
        before = (
            "By the tokens of the window that were read, and last of all tokens after the first window, to which p "
            "belongs:"
        )
        return f"{before}\n\n{markdown_table(*position_difference_table(by_document, adjusted))}\n\n{words}."
    return f"{markdown_table(*difference_table(by_seed, adjusted))}\n\n{words}; {EFFECT}."


def _speed(published: Path) -> str:
    """A table of training tokens/s by window and N; in brackets, relative to N = 1."""
    results = PUBLISHED.load(published)
    rates: dict[int, dict[int, float]] = {}
    for cost in results.costs:
        (trained,) = results.variants[cost.variant]
        rates.setdefault(cost.window, {})[cost.sleep_passes] = trained.tokens_per_second
    rows = [
        (f"{window:,}", *(f"{rate:,.0f} ({rate / by_passes[1]:.2f})" for rate in by_passes.values()))
        for window, by_passes in sorted(rates.items())
    ]
    passes = sorted(next(iter(rates.values())))
    return markdown_table(("window", *(f"tokens/s at N = {n}" for n in passes)), rows)


def _quoted(report: Path) -> str:
    """The text of a report without its title: its first picture, and links to the others, from docs/."""
    body = report.read_text().split("\n", 1)[1].strip()
    pictures = re.findall(r"!\[([^]]+)\]\(([^)/]+\.png)\)", body)
    body = re.sub(r"\n\n!\[[^]]+\]\([^)/]+\.png\)", "", body)
    (words, file), *others = [
        (words, f"../{(report.parent / file).relative_to(ROOT.parent)}") for words, file in pictures
    ]
    links = ", ".join(f"[{words}]({file})" for words, file in others)
    return f"{body}\n\n![{words}]({file})" + (f"\n\nMore pictures: {links}." if links else "")
