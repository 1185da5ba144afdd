"""Which rows of a table were trained by another commit than the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipelines.reporting.comparison import VariantResults

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
DIRTY = "-dirty"  # behind a commit whose code was changed since
SHORT = 7  # characters of a commit

Source = tuple[str, bool]  # a commit that is not the most frequent one; whether it trained all seeds of a row


def commit_marks(variants: Sequence[VariantResults]) -> dict[str, str]:
    """Variant -> marks of the commits, other than the most frequent one, that trained any of its seeds."""
    mark_of = _mark_of(variants)
    return {variant.name: " ".join(mark_of[source] for source in _sources(variant, variants)) for variant in variants}


def commit_note(variants: Sequence[VariantResults]) -> str:
    """The commits as text, with their marks."""
    noted = [
        f"{mark} {'' if whole else 'some seeds '}by {_name(commit)}"
        for (commit, whole), mark in _mark_of(variants).items()
    ]
    return f"Trained by {'; '.join([_name(_main_commit(variants)), *noted])}."


def _mark_of(variants: Sequence[VariantResults]) -> dict[Source, str]:
    sources = dict.fromkeys(source for variant in variants for source in _sources(variant, variants))
    return {source: str(number).translate(SUPERSCRIPTS) for number, source in enumerate(sources, start=1)}


def _sources(variant: VariantResults, variants: Sequence[VariantResults]) -> list[Source]:
    commits = dict.fromkeys(result.commit for result in variant.results)
    main = _main_commit(variants)
    return [(commit, len(commits) == 1) for commit in commits if commit != main]


def _main_commit(variants: Sequence[VariantResults]) -> str:
    """The commit of the most trainings. A training is evaluated at several N in rows `variant@N`."""
    trained = {
        (variant.name.partition("@")[0], result.seed): result.commit
        for variant in variants
        for result in variant.results
    }
    return Counter(trained.values()).most_common(1)[0][0]


def _name(commit: str) -> str:
    if not commit:
        return "an unknown commit"
    changed = " with uncommitted changes" if commit.endswith(DIRTY) else ""
    return f"commit {commit[:SHORT]}{changed}"
