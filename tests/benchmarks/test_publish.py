"""What was published can be read again by the code of today, and says by which code it was computed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.demo import duration
from benchmarks.evidence.publish import PUBLISHED as RESULTS
from benchmarks.evidence.publish import Published, published_variants, render, wall_seconds
from benchmarks.results_file import ROOT
from pipelines.engine.stage import Success
from pipelines.reporting.commits import DIRTY, commit_marks, commit_note
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.summary import MARKDOWN
from tests.pipelines.reports import kept_figures, result

PUBLISHED = sorted(path.parent for path in ROOT.glob("results/**/results.json"))


@pytest.mark.parametrize("directory", PUBLISHED, ids=lambda path: path.name)
def test_every_published_comparison_is_the_one_in_its_report(directory: Path) -> None:
    report = (directory / "report.md").read_text()
    for variant in published_variants(directory):
        assert re.search(
            rf"^\| {re.escape(variant.name)}( [⁰¹²³⁴⁵⁶⁷⁸⁹]+)* \| {variant.sleep_passes} \|", report, re.MULTILINE
        )
        shown = [variant.rows, *variant.answers.values(), *(found.nats for found in variant.token_estimates.values())]
        assert any(str(estimate) in report for estimate in shown)


def test_there_is_something_published() -> None:
    assert len(PUBLISHED) > 5


def test_the_time_of_a_run_is_that_of_a_clock_though_stages_run_side_by_side() -> None:
    ends = {"generate": (2.0, "12:00:02"), "train-a": (60.0, "12:01:02"), "train-b": (90.0, "12:01:32")}
    stages = [Success("", name, seconds, f"2026-01-01T{end}+00:00") for name, (seconds, end) in ends.items()]
    assert wall_seconds(stages) == 92.0
    found = RESULTS.load(ROOT / "results/demo")
    assert duration(replace(found, wall_seconds=None)) == ""
    assert "took 1.5 minutes together, on 2 cores (" in duration(replace(found, wall_seconds=92.0))


def test_no_result_is_by_code_that_no_commit_has() -> None:
    changed = re.compile(f'"commit": "[0-9a-f]+{re.escape(DIRTY)}"')
    assert changed.search(json.dumps({"commit": "a" * 40 + DIRTY}))
    results = ROOT / "results"
    assert all('"commit": "' in path.read_text() for path in results.rglob("*.json"))
    found = [str(path.relative_to(results)) for path in results.rglob("*.json") if changed.search(path.read_text())]
    assert not found


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
        "Trained by commit aaaaaaa; ¹ by commit bbbbbbb; ² some seeds by commit ccccccc with uncommitted changes."
    ) in report
    assert "| n1 | 1 |" in report and "| n2 ¹ | 2 |" in report and "| n4 ² | 4 |" in report


def test_a_training_counts_once_however_often_it_is_evaluated() -> None:
    def trained_by(commit: str, name: str, *seeds: int) -> VariantResults:
        return VariantResults(name, [replace(result(name, seed, 1, 50), commit=commit * 40) for seed in seeds])

    any_passes = [trained_by("b", f"any@{passes}", 1, 2) for passes in (1, 2, 4, 8)]
    variants = [trained_by("a", "n1", 1, 2), trained_by("a", "n2", 1, 2), *any_passes]
    assert commit_note(variants) == "Trained by commit aaaaaaa; ¹ by commit bbbbbbb."
    assert commit_marks(variants) == {"n1": "", "n2": "", **{variant.name: "¹" for variant in any_passes}}


def test_a_row_may_have_any_number_of_commits() -> None:
    by_others = [replace(result("n2", seed, 1, 50), commit=chr(ord("b") + seed) * 40) for seed in range(11)]
    variants = [VariantResults("n1", [result("n1", seed, 1, 50) for seed in range(2)]), VariantResults("n2", by_others)]
    assert commit_marks(variants)["n2"] == "¹ ² ³ ⁴ ⁵ ⁶ ⁷ ⁸ ⁹ ¹⁰ ¹¹"
    assert commit_note(variants).endswith("; ¹¹ some seeds by commit lllllll.")


def test_a_further_picture_compares_the_variants_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = kept_figures(monkeypatch)
    RESULTS.save(tmp_path, RESULTS.load(ROOT / "results/evidence/gsm"))
    render(tmp_path, shown=("n1", "n2"), depth=2, by_depth={"more": ("n1", "n4")})
    titles = {name: figure.get_suptitle().replace("\n", " ") for name, figure in drawn.items()}
    assert re.fullmatch(r"At depth 2, n\d is right in 0\.\d+ of answers, n\d in 0\.\d+", titles["depths"])
    assert "n4" not in titles["depths"]
    assert re.fullmatch(r"At depth 3, n1 is right in 0\.\d+ of answers, n4 in 0\.\d+", titles["depths-more"])


def _report(found: Published, directory: Path) -> str:
    RESULTS.save(directory, found)
    render(directory)
    return (directory / MARKDOWN).read_text()
