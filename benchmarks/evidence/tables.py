"""Fill in the tables and pictures of the pages from what is published, without training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.evidence.experiments import EXPERIMENTS, Question, results_of
from benchmarks.evidence.pages import fill
from benchmarks.evidence.publish import PUBLISHED, published_variants, render, report_text
from benchmarks.results_file import ROOT
from pipelines.reporting.differences import (
    EFFECT,
    Difference,
    PairedDifference,
    PositionDifference,
    correction,
    difference,
    difference_table,
    position_difference_table,
    position_differences,
)
from pipelines.reporting.markdown import markdown_table
from sleepmodel.evaluation.statistics import holm

Tested = Sequence[tuple[Difference, float]]  # differences, each with its adjusted p


def fill_tables(page: Path, adjusted: Mapping[str, Tested]) -> None:
    """Draw the pictures of each published experiment of the page, and fill in its block."""
    for name in adjusted:
        question = EXPERIMENTS[name]
        render(results_of(name), question.shown, question.titled, question.depth, question.by_depth)
    fill(page, blocks(page, adjusted))


def blocks(page: Path, adjusted: Mapping[str, Tested]) -> dict[str, str]:
    """Published experiment of the page -> its block, with links to the pictures that are there."""
    found, family = {}, family_of(page)
    for name, tested in adjusted.items():
        directory = results_of(name)
        question = EXPERIMENTS[name]
        body = _speed(directory) if question.speed else _quoted(directory)
        found[name] = f"`python -m benchmarks.evidence {name}` runs the preset `{question.preset}`.\n\n{body}"
        if tested:
            found[name] += f"\n\n{_differences(tested, family)}"
    return found


def family_of(page: Path) -> int:
    """How many comparisons the experiments of the page declare, published or not: a number that no result changes."""
    return sum(len(question.pairs) for question in EXPERIMENTS.values() if question.page == page)


def adjusted_comparisons(page: Path) -> dict[str, Tested]:
    """Published experiment of the page -> its comparisons, each with its p adjusted for all that the page declares."""
    found = {
        name: comparisons(question, results_of(name))
        for name, question in EXPERIMENTS.items()
        if question.page == page and (results_of(name) / PUBLISHED.name).is_file()
    }
    adjusted = iter(holm([each.p_value for own in found.values() for each in own], family_of(page)))
    return {name: [(each, next(adjusted)) for each in own] for name, own in found.items()}


def comparisons(question: Question, published: Path) -> Sequence[Difference]:
    """The differences between the experiment's pairs, as far as they have an interval."""
    variants = {variant.name: variant for variant in published_variants(published)}
    if question.documents:
        by_pair = {(each.better, each.other): each for each in position_differences(list(variants.values()))}
        return [by_pair[pair] for pair in question.pairs]
    found = [difference(variants[better], variants[other], question.right) for better, other in question.pairs]
    return [each for each in found if each]


def _differences(tested: Tested, family: int) -> str:
    """The table of some comparisons of a page, which declares so many."""
    adjusted = [p for _, p in tested]
    by_seed = [each for each, _ in tested if isinstance(each, PairedDifference)]
    by_document = [each for each, _ in tested if isinstance(each, PositionDifference)]
    words = correction("this page", family, len(tested))
    if by_document:
        before = (
            "By the tokens of the window that were read, and last of all tokens after the first window, to which p "
            "belongs:"
        )
        return f"{before}\n\n{markdown_table(*position_difference_table(by_document, adjusted))}\n\n{words}"
    return f"{markdown_table(*difference_table(by_seed, adjusted))}\n\n{words} {EFFECT}."


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


def _quoted(published: Path) -> str:
    """The text of its report without the title: the first picture, and links to the others, from docs/."""
    body = report_text(published).split("\n", 1)[1].strip()
    pictures = re.findall(r"!\[([^]]+)\]\(([^)/]+\.png)\)", body)
    body = re.sub(r"\n\n!\[[^]]+\]\([^)/]+\.png\)", "", body)
    (words, file), *others = [(words, f"../{(published / file).relative_to(ROOT.parent)}") for words, file in pictures]
    links = ", ".join(f"[{words}]({file})" for words, file in others)
    return f"{body}\n\n![{words}]({file})" + (f"\n\nMore pictures: {links}." if links else "")
