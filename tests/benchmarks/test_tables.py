"""The tables of the pages and of README are those of the published results; what the prose says follows from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.evidence import findings
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.pages import EVIDENCE, ITERATED_SLEEP, README
from benchmarks.evidence.schedule import NIGHT_HOURS, schedule
from benchmarks.evidence.tables import adjusted_comparisons
from pipelines.reporting.differences import is_clear
from sleepmodel.evaluation.statistics import holm

# experiment -> pairs of which the prose of the pages says that they are clear of 0 after the correction
SAID_CLEAR = {
    "rule110": {("n4", "n1")},
    "iterated": {("iterated", without) for without in ("hidden", "normalized", "untraced", "delta")},
    "depo-iterated": {("iterated", without) for without in ("hidden", "untraced", "unmarked", "without-conv")},
}
# all pairs of which are said not to be clear
SAID_UNCLEAR = {"rows", "by-t", "curriculum", "eta", "rule", "depo", "gsm", "gsm-traces", "retrofit"}


@pytest.mark.parametrize("page", [EVIDENCE, ITERATED_SLEEP], ids=lambda page: page.name)
def test_what_the_page_says_is_clear_of_0_is_what_is_clear(page: Path) -> None:
    for name, found in adjusted_comparisons(page).items():
        clear = {(each.better, each.other) for each, p in found if is_clear(p)}
        if name in SAID_CLEAR:
            assert clear == SAID_CLEAR[name], name
        if name in SAID_UNCLEAR:
            assert not clear, name


@pytest.mark.parametrize("page", [EVIDENCE, ITERATED_SLEEP], ids=lambda page: page.name)
def test_each_table_says_how_many_comparisons_the_page_has(page: Path) -> None:
    adjusted = adjusted_comparisons(page)
    pairs = [pair for found in adjusted.values() for pair in found]
    assert [p for _, p in pairs] == holm([each.p_value for each, _ in pairs])
    said = re.findall(r"for the (\d+) comparisons of this page, of which (\d+) are in this table", page.read_text())
    assert sorted(said) == sorted((str(len(pairs)), str(len(found))) for found in adjusted.values() if found)


def test_the_table_of_readme_is_the_one_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text())
    monkeypatch.setattr(findings, "README", copy)
    findings.fill_readme()
    assert copy.read_text() == README.read_text()


def test_a_night_runs_the_cheapest_experiments_that_fit_it() -> None:
    planned = schedule()
    assert {each.name for each in planned} == set(EXPERIMENTS)
    hours = [each.hours for each in planned]
    assert hours == sorted(hours) and hours[0] > 0
    tonight = [each.tonight for each in planned]
    assert tonight == sorted(tonight, reverse=True) and True in tonight
    assert sum(each.hours for each in planned if each.tonight) <= NIGHT_HOURS
    assert {each.name for each in planned if not each.measured}.isdisjoint(SAID_CLEAR)
