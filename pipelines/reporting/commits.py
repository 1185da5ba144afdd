"""Which rows of a table were computed by another commit than the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipelines.reporting.comparison import VariantResults

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
DIRTY = ("-dirty", "+changes")  # of a commit whose code was changed since
SHORT = 7  # characters of a commit


def commit_marks(variants: Sequence[VariantResults]) -> dict[str, str]:
    """Variant -> marks of the commits, other than the most frequent one, that trained any of its seeds."""
    mark_of = _mark_of(variants)
    return {
        variant.name: "".join(dict.fromkeys(mark_of[result.commit] for result in variant.results))
        for variant in variants
    }


def commit_note(variants: Sequence[VariantResults]) -> str:
    """The commits as text, with their marks."""
    (main, _), *others = _mark_of(variants).items()
    noted = [f"{mark} at least one seed by {_name(commit)}" for commit, mark in others]
    return f"Trained by {'; '.join([_name(main), *noted])}."


def _mark_of(variants: Sequence[VariantResults]) -> dict[str, str]:
    """Commit -> mark, "" for the most frequent one, which comes first."""
    counted = Counter(result.commit for variant in variants for result in variant.results)
    (main, _), *_ = counted.most_common(1)
    others = [commit for commit in counted if commit != main]
    return {main: "", **{commit: MARKS[i] for i, commit in enumerate(others)}}


def _name(commit: str) -> str:
    if not commit:
        return "an unknown commit"
    changed = " with uncommitted changes" if commit.endswith(DIRTY) else ""
    return f"commit {commit[:SHORT]}{changed}"
