"""The title of each picture: its main result in one sentence, computed from the data that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.reporting.comparison import VariantResults
from sleepmodel.distributed.trials import TrialResult, best
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.training.progress import Progress

PAPER_ETA = 1.0


def compared(values: Mapping[str, float], titled: Sequence[str] = (), most: bool = True) -> list[str]:
    """The variants that a title compares: those `titled` that have a value; by default the best and the first, or the
    best and the worst where the first is the best. most: the most is best."""
    if titled:
        return [name for name in titled if name in values]
    best, worst = (max, min) if most else (min, max)
    top, first = best(values, key=lambda name: values[name]), next(iter(values))
    other = worst(values, key=lambda name: values[name]) if top == first else first
    return list(dict.fromkeys((top, other)))


def comparison(variants: Sequence[VariantResults], titled: Sequence[str] = ()) -> str:
    """The share of rows right of the variants that are compared; by default of those whose test rows ask what
    the first one's do. Without a variant that is titled, a title is empty."""
    shares = {each.name: each.rows.value for each in variants if titled or each.asks == variants[0].asks}
    return _right(shares, titled, "test rows")


def depths(variants: Sequence[VariantResults], titled: Sequence[str] = (), depth: int | None = None) -> str:
    """The same for answers at a depth; None: the greatest of all, or of those `titled`."""
    depth = depth or deepest(variants, titled)
    words = _right(at_depth(variants, depth, titled), titled, "answers")
    return f"At depth {depth}, {words}" if words else ""


def deepest(variants: Sequence[VariantResults], titled: Sequence[str] = ()) -> int:
    """The greatest depth of all, or of those `titled`; 0 if none is shown."""
    return max((d for variant in variants if not titled or variant.name in titled for d in variant.answers), default=0)


def at_depth(variants: Sequence[VariantResults], depth: int, titled: Sequence[str] = ()) -> dict[str, float]:
    """The share of answers right at a depth, of the variants that are asked there; where none is titled, of those that
    are asked what the first of them is."""
    asked = [each for each in variants if depth in each.answers]
    return {each.name: each.answers[depth].value for each in asked if titled or each.asks == asked[0].asks}


def likelihood(variants: Sequence[VariantResults], kinds: Sequence[str], titled: Sequence[str] = ()) -> str:
    """The gap to the control, the widest being the best. If the task has no control, the nats in the `kinds` of rows
    that are drawn."""
    gaps = {variant.name: variant.gap for variant in variants if variant.gap}
    if gaps:
        name, _ = next(iter(gaps.values()))
        widths = {variant: gap.value for variant, (_, gap) in gaps.items()}
        words = _nats({name: [widths[name]] for name in compared(widths, titled)}, "answer token")
        return f"{name}: {words}" if words else ""
    parts = {variant.name: variant.token_estimates for variant in variants}
    names = compared({name: found["all"].nats.value for name, found in parts.items()}, titled, most=False)
    nats = {name: [parts[name][kind].nats.value for kind in kinds if kind in parts[name]] for name in names}
    return _nats(nats, "answer token")


def positions(variants: Sequence[VariantResults], titled: Sequence[str] = ()) -> str:
    """The nats after the first token of a window."""
    starts = {variant.name: next(iter(variant.within.items())) for variant in variants}
    (first, _), *_ = starts.values()
    nats = {name: found.value for name, (_, found) in starts.items()}
    words = _nats({name: [nats[name]] for name in compared(nats, titled, most=False)}, "token")
    return f"After {first.name} token{'s' * (first.last > 1)} of a window, {words}" if words else ""


def _nats(found: Mapping[str, Sequence[float]], of: str) -> str:
    """The nats of each variant, from the fewest to the most; of those that have any."""
    words: list[str] = []
    for name, nats in found.items():
        if nats:
            span = dict.fromkeys((f"{min(nats):.3f}", f"{max(nats):.3f}"))
            words.append(f"{' to '.join(span)}{'' if words else f' nats per {of}'} with {name}")
    return ", ".join(words)


def learning_curves(histories: Mapping[str, Sequence[Sequence[Progress]]]) -> str:
    """The same for validation rows at the end of training."""
    ends = {name: sum(seed[-1].accuracy for seed in seeds) / len(seeds) for name, seeds in histories.items()}
    return f"At the end of training, {_right(ends, (), 'validation rows')}"


def etas(variants: Sequence[VariantResults], titled: Sequence[str] = ()) -> str:
    """The variants `titled`; by default the best pair of N and eta, and the result of the paper's eta at that N."""
    if titled:
        return comparison(variants, titled)
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


def _right(shares: Mapping[str, float], titled: Sequence[str], of: str) -> str:
    """The shares of the variants that are compared."""
    if not titled and len(shares) > 1 and len(set(shares.values())) == 1:
        return f"every variant is right in {_share(next(iter(shares.values())))} of {of}"
    names = compared(shares, titled)
    if not names:
        return ""
    first, *others = names
    words = f"{first} is right in {_share(shares[first])} of {of}"
    return ", ".join([words, *(f"{name} in {_share(shares[name])}" for name in others)])


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
