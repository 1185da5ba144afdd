"""The report: one page that needs nothing beside it, with a section for all that there is and for nothing else."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.reporting.summary import markdown_summary
from tests.pipelines.reports import Page, built, data, share


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
        "Wrong answers",
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
        "Wrong answers",
    }
    assert headings == [heading for heading in whole.texts["h2"] if heading not in absent]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.png", "depths.png", "learning-curves.png"]


def test_many_depths_have_a_table_and_a_picture_of_their_own(tmp_path: Path) -> None:
    """The comparison has no column for each then, and powers of two are as far apart on the picture's axis."""
    depths = {2**i: share(100 - i, 100) for i in range(9)}
    few = data((3,))
    variants = [
        replace(each, results=[replace(r, accuracy=replace(r.accuracy, answers=depths)) for r in each.results])
        for each in few.variants
    ]
    (tmp_path / "depths.png").touch()
    summary = markdown_summary("many", replace(few, variants=variants), tmp_path)
    assert "| answers right, by depth | 1 | 2 | 4 | 8 | 16 | 32 | 64 | 128 | 256 |" in summary
    assert "depth 256" not in summary and "![accuracy by depth](depths.png)" in summary
    assert "depth 4" in markdown_summary("few", few, tmp_path)
    assert "answers right, by depth" not in markdown_summary("few", few, tmp_path)


def test_variants_of_different_depths_have_their_columns_in_one_order(tmp_path: Path) -> None:
    """Together they may have too many depths for columns, though each has few."""

    def summary(*depths: tuple[int, ...]) -> str:
        few = data((3,))
        variants = [
            replace(each, results=[replace(r, accuracy=replace(r.accuracy, answers=answers)) for r in each.results])
            for each, own in zip(few.variants, depths, strict=True)
            if (answers := {depth: share(50, 100) for depth in own})
        ]
        return markdown_summary("several", replace(few, variants=variants), tmp_path)

    head = "| model | N | eta | rows right | depth 1 | depth 2 | depth 3 | depth 4 | tokens | FLOPs | tokens/s | s |"
    assert head in summary((1, 4), (1, 2, 3))
    assert "| answers right, by depth | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |" in summary((1, 3, 5, 7, 9), (2, 4, 6, 8))


def test_no_interval_of_a_share_leaves_0_and_1(whole: Page) -> None:
    intervals = [re.fullmatch(r"(\d\.\d+) \[(.+), (.+)\]", cell) for cell in whole.texts["td"]]
    found = [[float(number) for number in match.groups()] for match in intervals if match]
    assert len(found) >= 10
    assert all(0 <= low <= value <= high <= 1 for value, low, high in found)
    assert any(high == 1 for _, _, high in found) and any(low == 0 for _, low, _ in found)
