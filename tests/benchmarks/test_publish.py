"""What was published can be read again by the code of today, and says by which code it was computed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.evidence.publish import PUBLISHED as RESULTS
from benchmarks.evidence.publish import Published, published_variants, render
from benchmarks.results_file import ROOT
from pipelines.reporting.commits import DIRTY
from pipelines.stages.report import MARKDOWN

PUBLISHED = sorted(path.parent for path in ROOT.glob("results/**/results.json"))
# computed by code that no commit has: to be run again, and then to be struck from this list
BY_CHANGED_CODE = {
    "evidence/by-t/results.json",
    "evidence/eta/results.json",
    "evidence/gsm/results.json",
    "evidence/told.json",
    "faults.json",
    "overhead.json",
}


@pytest.mark.parametrize("directory", PUBLISHED, ids=lambda path: path.name)
def test_every_published_comparison_is_the_one_in_its_report(directory: Path) -> None:
    report = (directory / "report.md").read_text()
    for variant in published_variants(directory):
        assert re.search(
            rf"^\| {re.escape(variant.name)}( [¹²³⁴⁵⁶⁷⁸⁹]+)? \| {variant.sleep_passes} \|", report, re.MULTILINE
        )
        shown = [variant.rows, *variant.answers.values(), *(found.nats for found in variant.token_estimates.values())]
        assert any(str(estimate) in report for estimate in shown)


def test_there_is_something_published() -> None:
    assert len(PUBLISHED) > 5


def test_no_further_result_is_by_code_that_no_commit_has() -> None:
    changed = re.compile(f'"commit": "[0-9a-f]+({"|".join(map(re.escape, DIRTY))})"')
    results = ROOT / "results"
    found = {str(path.relative_to(results)) for path in results.rglob("*.json") if changed.search(path.read_text())}
    assert found == BY_CHANGED_CODE


def test_a_row_by_another_commit_than_the_rest_says_so(tmp_path: Path) -> None:
    found = RESULTS.load(ROOT / "results/evidence/gsm")

    def trained_by(name: str, commit: str, seeds: slice) -> list:  # type: ignore[type-arg]
        results = found.variants[name]
        return [replace(r, commit=commit) if r in results[seeds] else r for r in results]

    variants = {name: trained_by(name, "a" * 40, slice(None)) for name in found.variants}
    found = replace(found, variants=variants)
    assert "Trained by commit aaaaaaa." in _report(found, tmp_path)
    variants |= {"n2": trained_by("n2", "b" * 40, slice(None)), "n4": trained_by("n4", "c" * 40 + "-dirty", slice(1))}
    report = _report(replace(found, variants=variants), tmp_path)
    assert (
        "Trained by commit aaaaaaa; ¹ at least one seed by commit bbbbbbb; ² at least one seed by commit ccccccc with "
        "uncommitted changes."
    ) in report
    assert "| n1 | 1 |" in report and "| n2 ¹ | 2 |" in report and "| n4 ² | 4 |" in report


def _report(found: Published, directory: Path) -> str:
    RESULTS.save(directory, found)
    render(directory)
    return (directory / MARKDOWN).read_text()
