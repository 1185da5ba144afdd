"""The table "What we found" of README, with its numbers and verdicts from published results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.evidence.experiments import GAINS, results_of
from benchmarks.evidence.pages import README, fill
from benchmarks.evidence.publish import published_variants
from benchmarks.evidence.shortcut import NUMBER
from benchmarks.evidence.tables import Tested
from benchmarks.results_file import read_result
from pipelines.reporting.comparison import VariantResults
from pipelines.reporting.differences import Difference, PairedDifference, PositionDifference, is_clear
from pipelines.reporting.markdown import markdown_table

PAGE = "docs/evidence.md"
PASSES = f"[more passes]({PAGE}#rule-110-more-passes-at-equal-tokens-and-at-equal-compute)"
HOPS = f"[hops]({PAGE}#which-hops-need-passes)"
ALIKE = 1.1  # a token that takes up to this many times as long takes no longer
SLEEP_OR_ATTENTION = ("n1", "transformer-evicted")  # variants of the pretrained model

Row = tuple[str, str, str]


def fill_readme(adjusted: Mapping[str, Tested]) -> Path:
    """Fill in the table; the page that has it. adjusted: the comparisons of docs/evidence.md."""
    rows = [
        _passes(adjusted["rule110"]),
        _compute(adjusted["rule110"], adjusted["cells"]),
        _hops(adjusted["depo-hops"]),
        _uniform(adjusted["depo-hops"]),
        _blocks(adjusted["depo-hops"], adjusted["rule110"]),
        _eta(adjusted["eta"]),
        _latency(),
        _pretrained(adjusted["text"]),
        _gsm(adjusted["gsm-traces"]),
    ]
    fill(README, {"found": markdown_table(("question", "answer", "evidence"), rows)})
    return README


def verdict(tested: Tested) -> str:
    """Yes if each difference is above and clear of 0, Perhaps if each seed has each above 0."""
    found = [each for each, _ in tested if isinstance(each, PairedDifference)]
    if all(each.mean.mean > 0 for each in found) and all(is_clear(p) for _, p in tested):
        return "Yes"
    return "Perhaps" if all(each.ahead == each.mean.seeds for each in found) else "Not shown"


def _no_or_verdict(tested: Tested) -> str:
    """No if none of the differences is above 0, else their verdict."""
    behind = all(isinstance(each, PairedDifference) and each.mean.mean <= 0 for each, _ in tested)
    return "No" if behind else verdict(tested)


def _passes(adjusted: Tested) -> Row:
    rows = _variants("rule110")
    n1, n2, n4 = (f"{rows[name].rows.value:.3f}" for name in ("n1", "n2", "n4"))
    gains = sorted(_pairs(adjusted, *GAINS), key=lambda tested: tested[1])
    p_values = [f"{p:.3f} for {_passes_of(gain)}" for gain, p in gains]
    answer = (
        f"**{verdict(_pairs(adjusted, ('n4', 'n1')))}** on Rule 110 at t = 6: {n1}, {n2} and {n4} for N = 1, 2 and 4 "
        f"({len(rows['n4'].results)} seeds). p is {', '.join(p_values[:-1])} and {p_values[-1]}"
    )
    return "Are more passes more accurate after the same training tokens?", answer, PASSES


def _passes_of(gain: Difference) -> str:
    return f"N = {gain.better.removeprefix('n')} against {gain.other.removeprefix('n')}"


def _compute(adjusted: Tested, cells: Tested) -> Row:
    pair, wide = ("n4", "n1-same-compute"), _variants("cells")
    ((_, p),) = _pairs(cells, pair)
    answer = (
        f"**{_no_or_verdict(_pairs(adjusted, pair))}** on Rule 110: N = 1 with the FLOPs of N = 4 reaches "
        f"{_variants('rule110')['n1-same-compute'].rows.value:.3f}. On 24 cells at t = 8 it reaches "
        f"{wide['n1-same-compute'].rows.value:.3f} and N = 4 {wide['n4'].rows.value:.3f} (p = {p:.3f}). Sleep saves "
        "tokens and parameters here, not compute"
    )
    return "And after the same training FLOPs?", answer, PASSES


def _hops(adjusted: Tested) -> Row:
    found, others = _variants("depo-hops"), ("n1", "n1-same-compute")
    deepest = max(result.level or 0 for name in others for result in found[name].results)
    two = _answers("depo-hops", deepest)
    tested = _pairs(adjusted, *(("n3", other) for other in others))
    answer = (
        f"**{verdict(tested)}** on Depo, where a question asks for the node k hops along a cycle. Training begins with "
        f"k = 1 and adds the next k, up to 4, once the last is learned; N = 1 never gets beyond k = {deepest}. There "
        f"its accuracy is {two['n1']} after the same tokens and {two['n1-same-compute']} after the same FLOPs; that of "
        f"N = 3 is {two['n3']}. Over all k, N = 3 is {_ahead_of_both(tested)}"
    )
    return "Do more passes answer deeper questions?", answer, HOPS


def _uniform(adjusted: Tested) -> Row:
    three = _answers("depo-hops", 3)
    pairs = ("n4-uniform", "n1-uniform"), ("n4-uniform", "n1-uniform-same-compute-epochs")
    same_tokens, same_flops = ([each] for each in _pairs(adjusted, *pairs))
    answer = (
        f"**{verdict(same_tokens)}**: at k = 3, N = 1, 2 and 4 have {three['n1-uniform']}, {three['n2-uniform']} and "
        f"{three['n4-uniform']}. Over all k, N = 4 is {_sure(same_tokens)}. **{verdict(same_flops)}** after the same "
        f"FLOPs, with which N = 1 has {three['n1-uniform-same-compute-epochs']}: N = 4 is {_sure(same_flops)}"
    )
    return "The same, with all k from the start, as in the paper?", answer, HOPS


def _blocks(depo: Tested, rule110: Tested) -> Row:
    tested = _pairs(depo, ("n3", "n1-deep"), ("n3", "n1-deep-narrow"))
    two, three = (_answers("depo-hops", depth) for depth in (2, 3))
    words, deep = _no_or_verdict(_pairs(rule110, ("n4", "n1-deep"))), _variants("rule110")["n1-deep"].rows.value
    answer = (
        f"**{verdict(tested)}** on Depo: at k = 3, N = 3 has an accuracy of {three['n3']}. One pass through twice the "
        f"blocks, at the same FLOPs, has {three['n1-deep']}, and through narrower ones, with about as many parameters "
        f"as N = 3, {three['n1-deep-narrow']}. At k = 2 the three are alike ({two['n3']}, {two['n1-deep']}, "
        f"{two['n1-deep-narrow']}). Over all k, N = 3 is {_ahead_of_both(tested)}. **{words}** on Rule 110, where four "
        f"times the blocks reach {deep:.3f}"
    )
    return "Are more passes better than more blocks?", answer, HOPS


def _eta(adjusted: Tested) -> Row:
    found = {name: f"{variant.rows.value:.3f}" for name, variant in _variants("eta").items()}
    first, second = (_pairs(adjusted, (f"eta2-n{n}", f"eta1-n{n}")) for n in (1, 2))
    answer = (
        f"**{verdict(second)}** at N = 2: eta = 2 instead of 1 takes it from {found['eta1-n2']} to {found['eta2-n2']} "
        f"({_sure(second)}), at no cost. **{verdict(first)}** at N = 1, from {found['eta1-n1']} to {found['eta2-n1']} "
        f"({_sure(first)})"
    )
    question = "Does the learning rate of the fast weights, eta, matter?"
    return question, answer, f"[learning rate]({PAGE}#the-fast-weight-learning-rate)"


def _latency() -> Row:
    models = read_result("latency")["models"]
    ratios = [model["passes"]["8"]["awake_over_n1"] for model in models]
    longer = "Yes" if max(ratios) > ALIKE else "No"
    answer = (
        f"**{longer}**: a token takes {min(ratios):.2f} to {max(ratios):.2f} times as long at N = 8 as at N = 1. The "
        "time of a sleep is linear in N"
    )
    return "Does an answer take longer at larger N?", answer, f"[costs]({PAGE}#what-sleep-costs)"


def _pretrained(documents: Tested) -> Row:
    found = _variants("retrofit")
    own = {name: [each.kinds["own"].right.value for each in found[name].likelihoods] for name in SLEEP_OR_ATTENTION}
    sleep, attention = (found[name].token_estimates["own"].right.value for name in SLEEP_OR_ATTENTION)
    # the comparisons of the page are of whole rows, of which neither gets any right: tokens have signs, but no p
    ahead_in_each = all(a > b for a, b in zip(*own.values(), strict=True))
    ahead, behind_whole = (
        list(each.bins.values())[-1].value
        for other in ("transformer-evicted", "transformer-whole")
        for each, _ in _pairs(documents, ("sleep", other))
        if isinstance(each, PositionDifference)
    )
    answer = (
        f"**{'Perhaps' if ahead_in_each else 'Not shown'}**: five new layers in SmolLM2-135M, trained for 120 "
        f"steps, recall {sleep:.3f} of a passage's tokens once its window is gone; attention layers trained alike "
        f"recall {attention:.3f}. A second pass adds nothing there. On documents, after 30 steps, their loss is "
        f"{-ahead:.3f} nats a token below that of attention, where evicting the cache costs "
        f"{behind_whole - ahead:.2f}; that the difference is memory is not shown"
    )
    links = f"[a pretrained model]({PAGE}#a-pretrained-model-that-sleeps), [documents]({PAGE}#a-text-of-ones-own)"
    return "Can a pretrained model be given sleep?", answer, links


def _gsm(adjusted: Tested) -> Row:
    found = {name: f"{variant.rows.value:.3f}" for name, variant in _variants("gsm-traces").items()}
    official = [each.rows.value for name, each in _variants("gsm").items() if name in ("n1", "n2", "n4")]
    told = {(each["guess"], each["mode"], each["operations"]): each for each in read_result("evidence/told")["gsm"]}
    guess = told[NUMBER, "both", "all"]["right"] / told[NUMBER, "both", "all"]["asked"]
    others = ("n1", "n1-same-compute")
    traced, plain = ([_pairs(adjusted, (name, other)) for other in others] for name in ("n4-traces", "n4"))
    answer = (
        f"**Not shown** on short problems with the official numbers and distractors (192 to 320 tokens): "
        f"{min(official):.3f} to {max(official):.3f} at N = 1, 2 and 4, where a guess of the most frequent number has "
        f"{guess:.3f}. **{verdict(traced[0])}** on problems where this guess is seldom right, if each pass is trained "
        f"to compute what can be known by then: N = 4 has {found['n4-traces']}, N = 1 {found['n1']} after the same "
        f"tokens ({_sure(traced[0])}) and {found['n1-same-compute']} after the same FLOPs ({_sure(traced[1])}). "
        f"**{verdict(plain[0])}** with the paper's loss: {found['n4']} ({_sure(plain[0])}; against N = 1 with more "
        f"FLOPs {_sure(plain[1])})"
    )
    return "Do passes help on grade-school problems (GSM)?", answer, f"[GSM]({PAGE}#traces-from-the-solution)"


def _sure(tested: Tested) -> str:
    """With how many seeds the difference is above 0, and its adjusted p."""
    ((_, p),) = tested
    return f"ahead with {_seeds_ahead(tested)}, p = {p:.3f}"


def _ahead_of_both(tested: Tested) -> str:
    (_, first), (_, second) = tested
    return f"ahead of both with {_seeds_ahead(tested)}, p = {first:.3f} and {second:.3f}"


def _answers(name: str, depth: int) -> dict[str, str]:
    """Variant -> the share of answers right at a depth, as text."""
    return {variant: f"{found.answers[depth].value:.3f}" for variant, found in _variants(name).items()}


def _variants(name: str) -> dict[str, VariantResults]:
    return {variant.name: variant for variant in published_variants(results_of(name))}


def _pairs(adjusted: Tested, *pairs: tuple[str, str]) -> Tested:
    """The comparisons of these pairs, in the order given."""
    by_pair = {(each.better, each.other): (each, p) for each, p in adjusted}
    return [by_pair[pair] for pair in pairs]


def _seeds_ahead(tested: Tested) -> str:
    """With how many seeds the differences are above 0, by the one of which this holds least often."""
    found = [each for each, _ in tested if isinstance(each, PairedDifference)]
    least = min(found, key=lambda each: each.ahead)
    return f"{'each' if least.ahead == least.mean.seeds else least.ahead} of {least.mean.seeds} seeds"
