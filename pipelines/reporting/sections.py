"""The sections of a report. A section without data is left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.reporting import plots
from pipelines.reporting.comparison import (
    VariantResults,
    are_documents,
    floor_of,
    interval_of,
    nats_note,
    position_table,
    table_of,
)
from pipelines.reporting.differences import (
    EFFECT,
    correction,
    difference_table,
    differences,
    position_difference_table,
    position_differences,
)
from pipelines.reporting.html import folded, picture, table, text
from pipelines.reporting.mistakes import Mistakes
from sleepmodel.distributed.trials import TrialResult
from sleepmodel.evaluation.latency import InferenceCost
from sleepmodel.evaluation.statistics import Estimate, holm
from sleepmodel.training.progress import Progress

COMPARISON, DEPTHS, CURVES, SEARCH = "comparison.png", "depths.png", "learning-curves.png", "search.png"
COSTS, MEMORY, ETAS = "costs.png", "memory.png", "etas.png"
LIKELIHOOD, POSITIONS = "likelihood.png", "positions.png"
LENGTHS = [4**exponent for exponent in range(2, 9)]

Section = tuple[str, str]  # heading, HTML


@dataclass(frozen=True)
class ReportData:
    """The data of a report.

    histories: by variant, one for each seed; settings: by variant, the configs of its first seed.
    searches: trials and winner; costs: of each variant; mistakes: of the first seed of each variant.
    titled: the variants that the titles of pictures compare; (): the best and the first; depth: where the title by
        depth compares them; None: at the greatest.
    """

    variants: list[VariantResults]
    histories: dict[str, list[list[Progress]]]
    settings: dict[str, dict[str, Any]]
    searches: list[tuple[list[TrialResult], TrialResult]]
    costs: list[InferenceCost]
    mistakes: list[Mistakes]
    titled: tuple[str, ...] = ()
    depth: int | None = None


def sections(data: ReportData, pictures: Path) -> list[Section]:
    """The sections of the report, in the order to read them; their pictures are drawn into the directory `pictures`."""
    style = plots.styles([variant.name for variant in data.variants])
    documents = are_documents(data.variants)
    return [
        _documents(data.variants) if documents else _comparison(data, style, pictures),
        *([] if documents else [_depths(data, style, pictures)]),
        *_likelihood(data, style, pictures),
        *_positions(data, style, pictures),
        *([] if documents else [*_differences(data.variants), *_curves(data, style, pictures)]),
        *_etas(data, pictures),
        *(_search(trials, winner, pictures) for trials, winner in data.searches),
        *_costs(data.costs, style, pictures),
        *_memory(data.costs, style, pictures),
        *_mistakes(data.mistakes),
        _provenance(data.variants),
        _settings(data.settings),
    ]


def _comparison(data: ReportData, style: plots.Styles, pictures: Path) -> Section:
    variants, file = data.variants, pictures / COMPARISON
    plots.comparison(variants, style, file, data.titled)
    words = (
        f"Share of held-out test rows with all answers right, with its {interval_of(variants)}. An answer is right "
        "when all its tokens are. Intervals over seeds are Student's, clipped to [0, 1]: how much trainings differ. "
        "Intervals over test rows are bootstrapped from one training. Always guessing the most frequent answer gets "
        f"{floor_of(variants)} of the rows.{nats_note(variants)}"
    )
    body = text(words) + picture(file, "share of held-out rows right, by variant") + table(*table_of(variants))
    return "Comparison", body


def _documents(variants: list[VariantResults]) -> Section:
    words = (
        f"Held-out documents, with the {interval_of(variants)}. Tokens right: the share of tokens that the model finds "
        f"most likely, given all tokens before.{nats_note(variants)}"
    )
    return "Comparison", text(words) + table(*table_of(variants))


def _depths(data: ReportData, style: plots.Styles, pictures: Path) -> Section:
    variants, file = data.variants, pictures / DEPTHS
    plots.by_depth_or_passes(variants, style, file, data.titled, data.depth)
    rows = [
        (variant.name, variant.sleep_passes, depth, variant.results[0].accuracy.answers[depth].total, estimate)
        for variant in variants
        for depth, estimate in variant.answers.items()
    ]
    head = ("model", "N", "depth", "answers", f"right, {interval_of(variants)}")
    words = (
        "Share of single answers right. Depth is the number of reasoning steps: steps of the automaton, hops, or "
        "operations."
    )
    body = text(words) + picture(file, "share of answers right by depth, or by N") + table(head, rows)
    return "Accuracy by depth and N", body


def _likelihood(data: ReportData, style: plots.Styles, pictures: Path) -> list[Section]:
    """Left out where the comparison has it all: for answers of one token in rows of one kind."""
    measured = [variant for variant in data.variants if variant.likelihoods]
    if not any(variant.tells_more for variant in measured):
        return []
    file = pictures / LIKELIHOOD
    plots.likelihood(measured, style, file, data.titled)
    words = (
        "Nats per answer token: the mean cross-entropy of the right token, given all right tokens before it; guessing "
        "among V tokens costs ln V. Tokens right: the share of answer tokens that the model finds most likely. With "
        f"the {interval_of(measured)}."
    )
    head = ("model", "N", "answers", "tokens", "nats per token", "tokens right")
    rows = [
        (variant.name, variant.sleep_passes, part, f"{found.tokens:,}", found.nats, found.right)
        for variant in measured
        for part, found in variant.token_estimates.items()
    ]
    gaps = [
        (variant.name, variant.sleep_passes, variant.gap[0], part, gap)
        for variant in measured
        if variant.gap
        for part, gap in {"all": variant.gap[1], **{f"depth {d}": g for d, g in variant.gap_by_depth.items()}}.items()
    ]
    body = text(words) + picture(file, "nats per answer token, by variant and kind") + table(head, rows)
    if gaps:
        body += text("The gap, the nats of the control less those of the rows that it is the control of:") + table(
            (*head[:2], "kinds", "answers", "nats per token"), gaps
        )
    return [("Likelihood of the right answers", body)]


def _positions(data: ReportData, style: plots.Styles, pictures: Path) -> list[Section]:
    measured = [variant for variant in data.variants if variant.positions]
    if not measured:
        return []
    file = pictures / POSITIONS
    plots.positions(measured, style, file, data.titled)
    words = (
        "Nats per token of documents. The first tokens of a window are predicted from what the model has kept of "
        "earlier windows, later ones also from the window itself. A model that reads whole rows in one window is "
        f"measured by the window L of the others. With the {interval_of(measured)}."
    )
    body = text(words) + picture(file, "nats per token by tokens and by windows read")
    for what, found in (
        ("tokens of the window read, after the first window", [variant.within for variant in measured]),
        ("whole windows read before", [variant.windows for variant in measured]),
    ):
        body += text(f"By {what}:") + table(*position_table(measured, found))
    if compared := position_differences(data.variants):
        words = (
            "Differences of the nats, by tokens of the window read, and last of all tokens after the first window: on "
            f"the same tokens, so that less is better. {correction('this table', len(compared))}"
        )
        body += text(words) + table(*position_difference_table(compared, holm([each.p_value for each in compared])))
    return [("Nats by position", body)]


def _differences(variants: list[VariantResults]) -> list[Section]:
    found = differences(variants)
    if not found:
        return []
    tested = correction("this table", len(found))
    words = f"The mean difference, with Student's 95 % interval; {EFFECT}. {tested}"
    adjusted = holm([each.p_value for each in found])
    return [("Paired differences", text(words) + table(*difference_table(found, adjusted)))]


def _curves(data: ReportData, style: plots.Styles, pictures: Path) -> list[Section]:
    if not data.histories:
        return []
    file = pictures / CURVES
    # what is evaluated at another N was not trained, nor validated, there
    trained = {variant.name: data.histories[variant.name] for variant in data.variants if "@" not in variant.name}
    plots.learning_curves(trained, style, file)
    return [("Learning curves", picture(file, "share of validation rows right over training tokens and over FLOPs"))]


def _etas(data: ReportData, pictures: Path) -> list[Section]:
    variants = data.variants
    by_passes: dict[int, list[VariantResults]] = {}
    for variant in sorted(variants, key=lambda variant: variant.results[0].fast_weight_lr):
        by_passes.setdefault(variant.sleep_passes, []).append(variant)
    if max(len({variant.results[0].fast_weight_lr for variant in group}) for group in by_passes.values()) < 3:
        return []
    file = pictures / ETAS
    plots.by_eta(dict(sorted(by_passes.items())), file, data.titled)
    return [("N and eta", picture(file, f"share of test rows right by eta and N, with its {interval_of(variants)}"))]


def _search(trials: list[TrialResult], winner: TrialResult, pictures: Path) -> Section:
    file = pictures / SEARCH
    plots.search(trials, winner, file)
    words = (
        f"The search chose N = {winner.sleep_passes}, eta = {winner.fast_weight_lr:.3g}, with a validation accuracy of "
        f"{winner.accuracy:.3f}; ties go to fewer passes. Trials that were stopped early cannot win."
    )
    rows = [
        (t.sleep_passes, f"{t.fast_weight_lr:.3g}", f"{t.accuracy:.3f}", f"{t.tokens:,}", "no" if t.complete else "yes")
        for t in sorted(trials, key=lambda trial: -trial.accuracy)
    ]
    head = ("N", "eta", "validation accuracy", "tokens", "stopped early")
    return "Search over N and eta", text(words) + picture(file, "trials by N and eta") + table(head, rows)


def _costs(costs: list[InferenceCost], style: plots.Styles, pictures: Path) -> list[Section]:
    if not costs:
        return []
    file = pictures / COSTS
    plots.costs(costs, style, file)
    words = (
        "A session reads one row on one core; each figure is the median of several turns, which the variants take in "
        "rotation. Awake: reading a token and predicting the next. Asleep: the sleep after the last token of a window."
    )
    rows = [(c.variant, c.sleep_passes, f"{c.awake_ms:.3f}", f"{c.sleep_ms:.3f}", c.window) for c in costs]
    head = ("model", "N", "awake, ms per token", "asleep, ms per window", "tokens in a window")
    body = text(words) + picture(file, "milliseconds awake and asleep by N") + table(head, rows)
    return [("Wake latency and sleep cost", body)]


def _memory(costs: list[InferenceCost], style: plots.Styles, pictures: Path) -> list[Section]:
    if not costs:
        return []
    file, alike = pictures / MEMORY, dict[tuple[int, ...], list[InferenceCost]]()
    for cost in costs:
        alike.setdefault((cost.token_bytes, *map(cost.bytes, (0, *LENGTHS))), []).append(cost)
    kinds = {", ".join(cost.variant for cost in group): group[0] for group in alike.values()}
    plots.memory(kinds, LENGTHS, style, file)
    words = (
        "Bytes for one row: the fast weights, and the keys and values that are kept. In brackets: the KV cache of "
        "the same attention layers if nothing were evicted."
    )
    rows = [
        (name, f"{cost.state_bytes:,}", *(f"{cost.bytes(n):,} ({cost.token_bytes * n:,})" for n in LENGTHS))
        for name, cost in kinds.items()
    ]
    head = ("model", "fast weights", *(f"{n:,} tokens" for n in LENGTHS))
    return [("State against KV cache", text(words) + picture(file, "bytes by tokens read") + table(head, rows))]


def _mistakes(mistakes: list[Mistakes]) -> list[Section]:
    shown = [(f"{found.variant}, seed {found.seed}", found.tables()) for found in mistakes]
    body = "\n".join(folded(title, "\n".join(table(*each) for each in tables)) for title, tables in shown if tables)
    words = (
        "For the first seed of each variant: the most frequent wrong answers, where answers have one token, and the "
        "first wrong answers at each depth."
    )
    return [("Wrong answers", text(words) + body)] if body else []


def _provenance(variants: list[VariantResults]) -> Section:
    rows = [
        (
            variant.name,
            result.seed,
            variant.sleep_passes,
            f"{result.fast_weight_lr:.3g}",
            f"{result.tokens:,}",
            f"{result.flops:.3g}",
            f"{result.seconds:.0f}",
            f"{result.validation:.3f}",
            Estimate.of([result.accuracy.rows]),
            result.commit or "unknown",
        )
        for variant in variants
        for result in variant.results
    ]
    head = ("model", "seed", "N", "eta", "tokens", "FLOPs", "s", "validation", "rows right", "commit")
    words = (
        "Each training, with a 95 % interval over test rows. FLOPs are those of the forward and the backward, without "
        "the readout of the answers; the commit is that of the training code."
    )
    return "Trainings", text(words) + table(head, rows)


def _settings(settings: Mapping[str, Mapping[str, Any]]) -> Section:
    flat = {variant: _flat(config) for variant, config in settings.items()}
    names = list(dict.fromkeys(name for config in flat.values() for name in config))
    values = {name: [config.get(name, "") for config in flat.values()] for name in names}
    common = [(name, each[0]) for name, each in values.items() if len(set(each)) == 1]
    own = [(name, *each) for name, each in values.items() if len(set(each)) > 1]
    body = table(("field", *flat), own) if own else ""
    return "Settings", body + folded("the same in every variant", table(("field", "value"), common))


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted field names and their values as JSON; without the seed, which differs within a variant."""
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif name != "seed":
            flat[prefix + name] = json.dumps(value)
    return flat
