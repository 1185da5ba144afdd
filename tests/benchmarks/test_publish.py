"""What was published can be read again by the code of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.publish import published_variants
from benchmarks.results_file import ROOT

PUBLISHED = sorted(path.parent for path in ROOT.glob("results/**/results.json"))


@pytest.mark.parametrize("directory", PUBLISHED, ids=lambda path: path.name)
def test_every_published_comparison_is_the_one_in_its_report(directory: Path) -> None:
    report = (directory / "report.md").read_text()
    for variant in published_variants(directory):
        assert f"| {variant.name} | {variant.sleep_passes} |" in report
        shown = [variant.rows, *variant.answers.values(), *(found.nats for found in variant.token_estimates.values())]
        assert any(str(estimate) in report for estimate in shown)


def test_there_is_something_published() -> None:
    assert len(PUBLISHED) > 5
