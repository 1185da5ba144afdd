"""The title of each picture: its main result in one sentence, computed from the data that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.reporting.comparison import VariantResults
from sleepmodel.distributed.ray_tune import TrialResult, best
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.training.progress import Progress

PAPER_ETA = 1.0


def comparison(variants: Sequence[VariantResults], told: Sequence[str] = ()) -> str:
    """The share of rows of the variants `told`; by default of the best and of the first, the baseline."""
    return _several({variant.name: variant.rows.value for variant in variants}, told, "test rows")


def depths(variants: Sequence[VariantResults], told: Sequence[str] = ()) -> str:
    """The same for answers at the greatest depth of all, or of those `told`."""
    deepest = max(depth for variant in variants if not told or variant.name in told for depth in variant.answers)
    shares = {variant.name: variant.answers[deepest].value for variant in variants if deepest in variant.answers}
    return f"At depth {deepest}, {_several(shares, told, 'answers')}"


def likelihood(variants: Sequence[VariantResults]) -> str:
    """The variant with the widest gap to the control, or with the fewest nats if the task has no control; and the first
    variant."""
    gaps = {variant.name: variant.gap for variant in variants if variant.gap}
    if gaps:
        name, _ = next(iter(gaps.values()))
        return f"{name}: {_nats({variant: gap.value for variant, (_, gap) in gaps.items()}, most=True)}"
    return _nats({variant.name: variant.token_estimates["all"].nats.value for variant in variants}, most=False)


def positions(variants: Sequence[VariantResults]) -> str:
    """The fewest nats after the first token of a window, and those of the first variant."""
    starts = {variant.name: next(iter(variant.within.items())) for variant in variants}
    (first, _), *_ = starts.values()
    words = _nats({name: nats.value for name, (_, nats) in starts.items()}, most=False)
    return f"After {first.name} token{'s' * (first.last > 1)} of a window, {words}"


def _nats(values: Mapping[str, float], most: bool) -> str:
    """The best and the first; the best and the worst where the first is the best."""
    ranked, first = sorted(values, key=lambda name: values[name], reverse=most), next(iter(values))
    other = ranked[-1] if ranked[0] == first else first
    words = f"{values[ranked[0]]:.3f} nats per answer token with {ranked[0]}"
    return words if other == ranked[0] else f"{words}, {values[other]:.3f} with {other}"


def learning_curves(histories: Mapping[str, Sequence[Sequence[Progress]]]) -> str:
    """The same for validation rows at the end of training."""
    ends = {name: sum(seed[-1].accuracy for seed in seeds) / len(seeds) for name, seeds in histories.items()}
    return f"At the end of training, {_two(ends, 'validation rows')}"


def etas(variants: Sequence[VariantResults], told: Sequence[str] = ()) -> str:
    """The variants `told`; by default the best pair of N and eta, and the result of the paper's eta at that N."""
    if told:
        return comparison(variants, told)
    first = max(variants, key=lambda variant: variant.rows.value)
    words = f"{_setting(first)} is right in {_share(first.rows.value)} of test rows, the most of all"
    paper = [v for v in variants if v.sleep_passes == first.sleep_passes and _eta(v) == PAPER_ETA]
    if not paper or _eta(first) == PAPER_ETA:
        return words
    return f"{words}; eta = 1 reaches {_share(paper[0].rows.value)} there"


def search(trials: Sequence[TrialResult], winner: TrialResult) -> str:
    """The winner, and the best trial with the paper's eta."""
    words = f"N = {winner.sleep_passes}, eta = {winner.fast_weight_lr:.3g} wins with {_share(winner.accuracy)}"
    paper = [trial for trial in trials if trial.complete and trial.fast_weight_lr == PAPER_ETA]
    if not paper or winner.fast_weight_lr == PAPER_ETA:
        return words
    return f"{words}; eta = 1 reaches {_share(best(paper).accuracy)} at best"


def costs(measured: Sequence[InferenceCost]) -> str:
    """Latency awake over all N, and of a sleep at the least and the greatest N."""
    awake = sorted(cost.awake_ms for cost in measured)
    few, many = (pick(measured, key=lambda cost: cost.sleep_passes) for pick in (min, max))
    a_token = f"{awake[0]:.2g}" if f"{awake[0]:.2g}" == f"{awake[-1]:.2g}" else f"{awake[0]:.2g} to {awake[-1]:.2g}"
    words = f"A token awake takes {a_token} ms; a sleep takes {few.sleep_ms:.2g} ms at N = {few.sleep_passes}"
    return (
        words if few.sleep_passes == many.sleep_passes else f"{words}, {many.sleep_ms:.2g} at N = {many.sleep_passes}"
    )


def memory(kinds: Mapping[str, InferenceCost], length: int) -> str:
    """The memory of a model with fast weights and a window, and of its KV cache if nothing were evicted."""
    name, cost = max(kinds.items(), key=lambda kind: (kind[1].state_bytes > 0) + (kind[1].token_bytes > 0))
    kept = f"After {length:,} tokens {name} keeps {_bytes(cost.bytes(length))} a row"
    return f"{kept}; its KV cache would be {_bytes(cost.token_bytes * length)}" if cost.token_bytes else kept


def _several(shares: Mapping[str, float], told: Sequence[str], of: str) -> str:
    """The shares of those `told`, or `_two`."""
    named = [name for name in told if name in shares]
    if not named:
        return _two(shares, of)
    first, *others = named
    words = f"{first} is right in {_share(shares[first])} of {of}"
    return ", ".join([words, *(f"{name} in {_share(shares[name])}" for name in others)])


def _two(shares: Mapping[str, float], of: str) -> str:
    """The best share and the first; the best and the worst where the first is the best."""
    top = max(shares, key=lambda name: shares[name])
    first = next(iter(shares))
    other = min(shares, key=lambda name: shares[name]) if top == first else first
    if len(shares) > 1 and shares[top] == shares[other]:
        return f"every variant is right in {_share(shares[top])} of {of}"
    words = f"{top} is right in {_share(shares[top])} of {of}"
    return words if other == top else f"{words}, {other} in {_share(shares[other])}"


def _share(value: float) -> str:
    return f"{value:.3f}"


def _eta(variant: VariantResults) -> float:
    return variant.results[0].fast_weight_lr


def _setting(variant: VariantResults) -> str:
    return f"N = {variant.sleep_passes}, eta = {_eta(variant):.3g}"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} GB"
