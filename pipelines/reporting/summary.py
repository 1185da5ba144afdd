"""The report as Markdown: the tables and the pictures, to be quoted in other pages."""

from __future__ import annotations

from pathlib import Path

from pipelines.reporting.commits import commit_marks, commit_note
from pipelines.reporting.comparison import (
    VariantResults,
    all_depths,
    are_documents,
    depth_curves,
    depths_of,
    floor_of,
    interval_of,
    nats_note,
    position_table,
    table_of,
    tokens_of_kinds,
)
from pipelines.reporting.markdown import markdown_table
from pipelines.reporting.sections import (
    COMPARISON,
    CURVES,
    DEPTHS,
    ETAS,
    LIKELIHOOD,
    POSITIONS,
    SEARCH,
    ReportData,
)

MARKDOWN = "report.md"
MOST_DEPTHS = 8  # of the table of variants; more have a table of their own
PICTURES = {  # some tasks lack some of them
    POSITIONS: "nats by position",
    ETAS: "rows right by N and eta",
    COMPARISON: "rows right",
    DEPTHS: "accuracy by depth",
    LIKELIHOOD: "nats per answer token",
    CURVES: "learning curves",
}


def markdown_summary(title: str, data: ReportData, pictures: Path) -> str:
    """The table and the pictures, which lie in the directory `pictures`, the most telling one first; to be quoted in
    other pages."""
    variants = data.variants
    many = len(all_depths(variants)) > MOST_DEPTHS and not are_documents(variants)
    rest = (
        "Training FLOPs are those of the forward and the backward, without the readout of the answers."
        f"{nats_note(variants)} {commit_note(variants)}"
    )
    note = (
        f"Share of held-out test rows with all answers right, with its {interval_of(variants)}. Always guessing the "
        f"most frequent answer gets {floor_of(variants)}. {rest}"
    )
    if are_documents(variants):
        note = f"Held-out documents, with the {interval_of(variants)}. {rest}"
    columns, rows = table_of(variants, parts=not many)
    marks = commit_marks(variants)
    parts = [
        f"# {title}",
        note,
        markdown_table(columns, [[f"{name} {marks[name]}".strip(), *cells] for name, *cells in rows]),
        *(_by_position(variants) if are_documents(variants) else []),
        *([markdown_table(*depths_of(variants))] if many else []),
        *([markdown_table(*tokens_of_kinds(variants))] if any(variant.gap for variant in variants) else []),
        *(f"![{words}]({file})" for file, words in _pictures(variants).items() if (pictures / file).exists()),
    ]
    for _, winner in data.searches:
        parts += [
            f"The search chose N = {winner.sleep_passes}, eta = {winner.fast_weight_lr:.3g} "
            f"(validation accuracy {winner.accuracy:.3f}; ties go to fewer passes).",
            f"![search]({SEARCH})",
        ]
    return "\n\n".join(parts) + "\n"


def _pictures(variants: list[VariantResults]) -> dict[str, str]:
    """File -> words, the most telling one first."""
    # where each variant has a depth of its own and no curve joins them, a picture by depth is of single points
    curved = any(len(all_depths(joined)) > 1 for joined in depth_curves(variants).values())
    telling = {file: words for file, words in PICTURES.items() if file != DEPTHS or curved}
    if any(variant.gap for variant in variants):
        return {LIKELIHOOD: PICTURES[LIKELIHOOD], **telling}
    if curved and not any(variant.kinds for variant in variants):
        return {DEPTHS: PICTURES[DEPTHS], **telling}
    return telling


def _by_position(variants: list[VariantResults]) -> list[str]:
    return [
        "Nats per token by the tokens of the window that were read, after the first window:",
        markdown_table(*position_table(variants, [variant.within for variant in variants])),
        "By whole windows read before:",
        markdown_table(*position_table(variants, [variant.windows for variant in variants])),
    ]
