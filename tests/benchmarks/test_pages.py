"""Pages whose tables benchmarks fill in."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import performance
from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.pages import DEMO, EVIDENCE, ITERATED_SLEEP, PERFORMANCE, SCALING, fill

PAGE = "# title\n\n<!-- a -->\nNot run yet.\n<!-- end -->\n\nprose\n\n<!-- b-2 -->\n| old |\n<!-- end -->\n"


def test_blocks_are_filled_and_the_rest_stays(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill(page, {"b-2": r"| \1 new |"})
    assert page.read_text() == PAGE.replace("| old |", r"| \1 new |")


def test_a_block_without_a_place_is_refused_and_nothing_is_written(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    with pytest.raises(KeyError, match=r"page.md has no <!-- c --> ... <!-- end -->"):
        fill(page, {"a": "new", "c": "new"})
    assert page.read_text() == PAGE


def test_variants_on_other_test_rows_are_no_pair():
    found = EXPERIMENTS["iterated"]
    for other in ("four-states", "one-pass"):
        with pytest.raises(ValueError, match=f"pairs = .*'{other}'.*: must be variants whose tests ask the same quest"):
            replace(found, pairs=(("iterated", other),))


def test_a_comparison_that_no_seed_can_test_is_no_pair():
    with pytest.raises(ValueError, match=r"pairs = .*: must be \(\) with a single seed"):
        replace(EXPERIMENTS["iterated"], seeds=(90,))


def test_what_a_title_compares_is_in_the_picture():
    with pytest.raises(ValueError, match=r"titled = \['normalized'\]: must be among those shown, iterated, mixture"):
        replace(EXPERIMENTS["iterated"], titled=("iterated", "normalized"))
    with pytest.raises(ValueError, match=r"by_depth\.more = \['n9'\]: must be names of variants of rule110-iterated"):
        replace(EXPERIMENTS["iterated"], by_depth={"more": ("iterated", "n9")})


def test_each_page_has_the_blocks_that_its_benchmarks_fill():
    blocks = {
        EVIDENCE: {"told", "told-traces", "latency", "breakeven", "passes"},
        ITERATED_SLEEP: {"unread", "halting"},
        PERFORMANCE: set(performance.blocks()),
        DEMO: {"demo"},
        SCALING: {"rate", "generation", "training", "parallel", "tuning"},
    }
    for name, question in EXPERIMENTS.items():
        blocks[question.page].add(name)
    for page, names in blocks.items():
        assert set(re.findall(r"<!-- ([a-z0-9-]+) -->\n.+?\n<!-- end -->", page.read_text(), re.DOTALL)) == names
