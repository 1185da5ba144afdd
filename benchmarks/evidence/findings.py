"""The table "What we found" of README, with its numbers from published results."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.evidence.experiments import GAINS, results_of
from benchmarks.evidence.pages import EVIDENCE, README, fill
from benchmarks.evidence.publish import published_variants
from benchmarks.evidence.tables import adjusted_comparisons
from benchmarks.results_file import ROOT
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.differences import PositionDifference, is_clear
from pipelines.reporting.markdown import markdown_table

PAGE = "docs/evidence.md"


def fill_readme() -> Path:
    """Fill in the table; the page that has it."""
    rows = [_passes(), _compute(), _eta(), _latency(), _pretrained(), _other_tasks()]
    fill(README, {"found": markdown_table(("question", "answer", "evidence"), rows)})
    return README


Row = tuple[str, str, str]


def _passes() -> Row:
    rows, adjusted = _variants("rule110"), _adjusted("rule110")
    n1, n2, n4 = (f"{rows[name].rows.value:.3f}" for name in ("n1", "n2", "n4"))
    count = sum(len(found) for found in adjusted_comparisons(EVIDENCE).values())
    (first, *others), p = sorted(GAINS, key=lambda pair: adjusted[pair]), adjusted
    assert first == ("n4", "n1") and is_clear(p[first]), "README says so"
    rest = " and ".join(f"{p[pair]:.2f} for {_passes_of(pair)}" for pair in others)
    answer = (
        f"**Yes** on Rule 110 at t = 6: {n1}, {n2} and {n4} for N = 1, 2 and 4 (five seeds). Corrected for the {count} "
        f"comparisons of the page, p is {p[first]:.3f} for {_passes_of(first)}, {rest}"
    )
    link = f"[more passes]({PAGE}#rule-110-more-passes-at-equal-tokens-and-at-equal-compute)"
    return "Are more passes more accurate after the same training tokens?", answer, link


def _passes_of(pair: tuple[str, str]) -> str:
    better, other = (name.removeprefix("n") for name in pair)
    return f"{better} passes over {other}"


def _compute() -> Row:
    share = _variants("rule110")["n1-same-compute"].rows.value
    answer = (
        f"**Not at equal FLOPs**: N = 1 with the FLOPs of N = 4 reaches {share:.3f}. Sleep saves tokens and parameters "
        "here, not compute"
    )
    link = f"[more passes]({PAGE}#rule-110-more-passes-at-equal-tokens-and-at-equal-compute)"
    return "And after the same training FLOPs?", answer, link


def _eta() -> Row:
    found, pair = _variants("eta"), ("eta2-n1", "eta1-n1")
    two, one = (found[name] for name in pair)
    assert all(a > b for a, b in zip(two.values, one.values, strict=True)), "README says so"
    p = _adjusted("eta")[pair]
    answer = (
        f"**{'Yes' if is_clear(p) else 'Probably'}**: eta = 2 instead of 1 takes N = 1 from {one.rows.value:.3f} to "
        f"{two.rows.value:.3f} at no cost, and is better with each of three seeds (p = {p:.2f} after the correction)"
    )
    question = "Does the learning rate of the fast weights, eta, matter?"
    return question, answer, f"[learning rate]({PAGE}#the-fast-weight-learning-rate)"


def _latency() -> Row:
    models = json.loads((ROOT / "results/latency.json").read_text())["models"]
    ratios = [model["passes"]["8"]["awake_over_n1"] for model in models]
    answer = (
        f"**No**: a token takes {min(ratios):.2f} to {max(ratios):.2f} times as long at N = 8 as at N = 1. The time of "
        "a sleep is linear in N"
    )
    return "Does an answer take longer at larger N?", answer, f"[costs]({PAGE}#what-sleep-costs)"


def _pretrained() -> Row:
    found = _variants("retrofit")
    sleep, attention = (found[name].token_estimates["own"].right.value for name in ("n1", "transformer-evicted"))
    ahead, behind_whole = (
        list(each.bins.values())[-1].value
        for other in ("transformer-evicted", "transformer-whole")
        for each, _ in adjusted_comparisons(EVIDENCE)["text"]
        if isinstance(each, PositionDifference) and (each.better, each.other) == ("sleep", other)
    )
    answer = (
        f"**Yes**: five new layers in SmolLM2-135M, trained for 120 steps, say {sleep:.3f} of a passage's tokens right "
        f"after its window is gone; attention trained alike says {attention:.3f}. A second pass adds nothing there. On "
        f"documents, after 30 steps, it is {-ahead:.3f} nats a token ahead of such attention, where evicting the cache "
        f"costs {behind_whole - ahead:.2f}; that this is memory is not shown"
    )
    links = f"[a pretrained model]({PAGE}#a-pretrained-model-that-sleeps), [documents]({PAGE}#a-text-of-ones-own)"
    return "Can a pretrained model be given sleep?", answer, links


def _other_tasks() -> Row:
    found = _variants("gsm-traces")
    n1, compute, n4 = (found[name] for name in ("n1", "n1-same-compute", "n4"))
    for other in (n1, compute):
        assert all(a > b for a, b in zip(n4.values, other.values, strict=True)), "README says so"
    answer = (
        f"**Probably on GSM-Infinite**, where the most frequent number is seldom the answer: N = 4 is right in "
        f"{n4.rows.value:.3f}, N = 1 in {n1.rows.value:.3f} after the same tokens, and in {compute.rows.value:.3f} "
        "after more FLOPs than N = 4, with each of three seeds. **Not shown on Depo**: trained as in the paper, the "
        "models barely learn it"
    )
    links = f"[GSM]({PAGE}#traces-from-the-solution), [Depo]({PAGE}#depo)"
    return "Do passes help on GSM-Infinite and Depo?", answer, links


def _variants(name: str) -> dict[str, VariantResults]:
    return {variant.name: variant for variant in published_variants(results_of(name))}


def _adjusted(name: str) -> dict[tuple[str, str], float]:
    """Pair -> adjusted p."""
    return {(each.better, each.other): p for each, p in adjusted_comparisons(EVIDENCE)[name]}
