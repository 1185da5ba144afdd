"""Nats in the report: by kind, by depth and by position."""

import io
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from pipelines.cli import LOG_WIDTH
from pipelines.reporting import headlines
from pipelines.reporting.comparison import VariantResults, comparison_table, table_of
from pipelines.reporting.results import EvaluationResult
from pipelines.reporting.summary import markdown_summary
from sleepmodel.evaluation.likelihood import Likelihood
from sleepmodel.evaluation.positions import NatsByPosition, PositionBin
from sleepmodel.evaluation.statistics import Estimate, Mean, Share
from tests.pipelines.reports import built, data, result, scores, share, with_likelihood


def remembering(seeds: tuple[int, ...]) -> list[VariantResults]:
    """Two variants of which the second remembers more, the more with a later seed."""
    return [
        VariantResults(
            name, [with_likelihood(result(name, seed, passes, 60), 2 - gap - seed / 100, 2.0) for seed in seeds]
        )
        for name, passes, gap in (("n1", 1, 0.0), ("n<2>", 2, 0.5))
    ]


def test_the_likelihood_has_a_section_with_kinds_depths_and_the_gap(tmp_path: Path) -> None:
    found = replace(data(), variants=remembering((3, 4, 5)))
    page = built(found, tmp_path)
    assert page.texts["h2"][:3] == ["Comparison", "Accuracy by depth and N", "Likelihood of the right answers"]
    assert (tmp_path / "likelihood.png").exists()
    mean = Mean.of([0.53, 0.54, 0.55])
    gap = str(Estimate(0.54, (0.54 - mean.half_width, 0.54 + mean.half_width)))
    cells = page.texts["td"]
    assert cells.count(gap) == 3  # in the comparison, and of all answers and of depth 1 in its own table
    assert sum(cell.startswith("0.270 [") for cell in cells) == 1  # of depth 4
    at = cells.index("own")
    assert cells[at - 2 : at + 2] == ["n1", "1", "own", "300"] and cells[at + 2].startswith("1.960 [")
    assert {"all", "other", "depth 1", "depth 4", "other - own"} <= set(cells)
    kinds = ["other", "own"]
    assert headlines.likelihood(found.variants, kinds) == (
        "other - own: 0.540 nats per answer token with n<2>, 0.040 with n1"
    )
    assert headlines.likelihood(found.variants, kinds, ("n1",)) == "other - own: 0.040 nats per answer token with n1"
    assert headlines.likelihood(found.variants, kinds, ("n8",)) == ""
    plain = [
        VariantResults(r.variant, [replace(r, likelihood=replace(r.likelihood, gap=None))])
        for variant in found.variants
        for r in variant.results[:1]
        if r.likelihood
    ]
    # n<2> has 2.000 and 1.470 nats in the rows of two kinds, n1 2.000 and 1.970
    assert headlines.likelihood(plain, ["all"]) == "1.735 nats per answer token with n<2>, 1.985 with n1"
    assert headlines.likelihood(plain, kinds, ("n1", "n<2>")) == (
        "1.970 to 2.000 nats per answer token with n1, 1.470 to 2.000 with n<2>"
    )


def test_where_kinds_are_compared_the_summary_has_the_tokens_of_each(tmp_path: Path) -> None:
    """What a model remembers is in the rows that it has read before, not in the mean over both kinds."""
    summary = markdown_summary("recall", replace(data(), variants=remembering((3, 4, 5))), tmp_path)
    head = "| answer tokens | other, right | other, nats | own, right | own, nats |"
    assert head in summary
    table = summary[summary.index(head) :].split("\n\n")[0].splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| n1", "| n<2>"]
    n1 = [cell.split(" ")[0] for cell in table[2].split(" | ")[1:]]
    assert n1 == ["0.100", "2.000", "0.400", "1.960"]  # 30 and 120 of 300
    assert "answer tokens" not in markdown_summary("task", data(), tmp_path)


def test_an_answer_of_one_token_adds_one_column_and_no_section(tmp_path: Path) -> None:
    """Rule 110: the likelihood is a column of the page's table, and the terminal's table stays as narrow as it was."""
    measured = Likelihood(scores(0.7, 60, 200), {1: scores(0.1, 100, 100), 4: scores(1.3, 60, 100)})
    variants = [
        VariantResults(variant.name, [replace(r, likelihood=measured) for r in variant.results])
        for variant in data((3,)).variants
    ]
    columns, rows = table_of(variants)
    assert columns == [
        "model",
        "N",
        "eta",
        "depth 1",
        "depth 4",
        "nats",
        "tokens",
        "FLOPs",
        "tokens/s",
        "s",
    ]
    assert rows[0][5] == "0.700 [0.650, 0.800]"
    headings = built(replace(data((3,)), variants=variants), tmp_path).texts["h2"]
    assert "Likelihood of the right answers" not in headings
    terminal = [column.header for column in comparison_table(variants, 200).columns]
    assert terminal == [column for column in columns if column != "nats"]
    shown = comparison_table(remembering((3,)), 200).columns
    assert {"nats", "gap", "tokens right"} <= {column.header for column in shown}


def test_many_kinds_and_depths_are_for_the_page_alone(tmp_path: Path) -> None:
    """Facts: a kind for each sort of question and number of facts. A terminal has no room for them."""
    kinds = [f"{sort} at {facts} facts" for sort in ("recall", "hop", "change") for facts in (8, 16, 32)]
    measured = Likelihood(scores(0.7, 60, 400), {1: scores(0.1, 100, 200), 4: scores(1.3, 60, 200)}, {})
    measured = replace(measured, kinds={kind: scores(0.7, 20, 44) for kind in kinds})
    variants = [
        VariantResults(
            each.name,
            [
                replace(
                    r, likelihood=measured, accuracy=replace(r.accuracy, kinds={kind: share(1, 22) for kind in kinds})
                )
                for r in each.results
            ],
        )
        for each in data().variants
    ]
    assert set(kinds) <= set(table_of(variants)[0])
    terminal = [column.header for column in comparison_table(variants, LOG_WIDTH).columns]
    assert terminal == ["model", "N", "eta", "rows right", "tokens right", "nats", "tokens", "FLOPs", "tokens/s", "s"]
    page = built(replace(data(), variants=variants), tmp_path)
    assert set(kinds) <= set(page.texts["td"])


def positions(window: int, low: float) -> NatsByPosition:
    """The fewer nats the more of the window is read."""

    def found(bins: list[tuple[int, int]]) -> list[PositionBin]:
        nats = [low + 1 / (1 + first) for first, _ in bins]
        return [PositionBin(*ends, 64, Estimate(n, (n - 0.1, n + 0.1))) for ends, n in zip(bins, nats, strict=True)]

    return NatsByPosition(window, found([(1, 1), (2, 2), (3, 4)]), found([(0, 0), (1, 1)]))


def document(measured: EvaluationResult, found: NatsByPosition) -> EvaluationResult:
    none = replace(measured.accuracy, rows=Share(0, 64, (0.0, 0.1)))
    return replace(measured, accuracy=none, positions=found)


def less(seed: int) -> dict[str, list[PositionBin]]:
    """Differences to n1 that differ between seeds."""
    return {"n1": [PositionBin(1, 4, 64, Estimate(-0.5 + seed / 100, (-0.6, 0.2)))]}


def test_documents_have_their_nats_by_position(figures: dict[str, Figure], tmp_path: Path) -> None:
    found = data((3, 4))
    first, second = found.variants
    variants = [
        VariantResults(first.name, [document(r, positions(4, 2.0)) for r in first.results]),
        VariantResults(
            second.name,
            [document(r, replace(positions(4, 1 + r.seed / 100), less=less(r.seed))) for r in second.results],
        ),
    ]
    page = built(replace(found, variants=variants), tmp_path)
    assert "Nats by position" in page.texts["h2"] and (tmp_path / "positions.png").exists()
    assert {"1", "2", "3-4", "0", "L"} <= set(page.texts["th"])
    assert "n<2> - n1" in page.texts["td"] and "-0.465 [-0.529, -0.401]" in page.texts["td"]
    assert not {"Accuracy by depth and N", "Learning curves"} & set(page.texts["h2"])  # no document is right as a whole
    printed = Console(width=200, record=True, file=io.StringIO())
    printed.print(comparison_table(variants, printed.width))
    said = printed.export_text()
    assert "held-out documents" in said and "rows right" not in said and "depth" not in said
    one_right = replace(variants[0].results[0], accuracy=first.results[0].accuracy)
    assert "depth 1" in table_of([VariantResults("n1", [one_right]), variants[1]])[0]
    assert "2.500 [2.500, 2.500]" in page.texts["td"]  # n1 after one token, the same with both seeds
    assert any(cell.startswith("1.285 [") for cell in page.texts["td"])  # n<2> after three or four
    assert figures["positions"].get_suptitle() == (
        "After 1 token of a window, 1.535 nats per token with n<2>, 2.500 with n1"
    )
    assert headlines.positions(variants, ("n1",)) == "After 1 token of a window, 2.500 nats per token with n1"
    assert headlines.positions(variants, ("n8",)) == ""
    within, windows = figures["positions"].axes
    curves = [list(line.get_xdata()) for line in within.lines if line.get_linestyle() != "None"]
    assert curves == [[1, 2, 4], [1, 2, 4]]
    assert [label.get_text() for label in windows.get_xticklabels()] == ["0", "1"]
    assert "![nats by position](positions.png)" in markdown_summary("text", replace(found, variants=variants), tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert "Nats by position" not in built(found, other).texts["h2"]
    assert "nats" not in markdown_summary("task", found, other)
