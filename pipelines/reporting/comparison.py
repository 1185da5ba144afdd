"""The results of each variant over its seeds, and their tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.reporting.results import RESULTS, EvaluationResult
from sleepmodel.evaluation.likelihood import Likelihood, TokenScores
from sleepmodel.evaluation.positions import NatsByPosition, PositionBin
from sleepmodel.evaluation.statistics import Estimate

COST_COLUMNS = ("tokens", "FLOPs", "tokens/s", "s")  # of a variant's training
NATS, GAP = "nats", "gap"  # per answer token, and their difference to the task's control
NAME_WIDTH = 12  # columns of a terminal that a variant's name keeps
# what a terminal shows, if it has room: the shares of depths and kinds, the costs, and intervals
ROOM = ((True, True, True), (True, True, False), (False, True, True), (False, True, False), (False, False, False))


@dataclass(frozen=True)
class TokenEstimates:
    """Of some answer tokens: how many there are, nats per token, and the share right."""

    tokens: int
    nats: Estimate
    right: Estimate


@dataclass(frozen=True)
class VariantResults:
    """A variant's results, one for each seed. A row is right when all its answers are."""

    name: str
    results: list[EvaluationResult]

    @property
    def sleep_passes(self) -> int:
        return self.results[0].sleep_passes

    @property
    def values(self) -> list[float]:
        """Share of rows right, for each seed."""
        return [result.accuracy.rows.value for result in self.results]

    @property
    def rows(self) -> Estimate:
        """Share of rows right."""
        return Estimate.of([result.accuracy.rows for result in self.results])

    @property
    def answers(self) -> dict[int, Estimate]:
        """Depth -> share of answers right."""
        depths = sorted(self.results[0].accuracy.answers)
        return {d: Estimate.of([result.accuracy.answers[d] for result in self.results]) for d in depths}

    @property
    def asks(self) -> tuple[str, tuple[int, ...]]:
        """What the test rows ask, and at which depths: equal for variants that can be compared."""
        return self.results[0].questions, tuple(self.answers)

    @property
    def kinds(self) -> dict[str, Estimate]:
        """Kind of problem -> share of rows right, where the task has several."""
        kinds = self.results[0].accuracy.kinds
        return {kind: Estimate.of([result.accuracy.kinds[kind] for result in self.results]) for kind in kinds}

    @property
    def likelihoods(self) -> list[Likelihood]:
        """The likelihood of the right answers, for each seed; [] where it was not measured."""
        return [result.likelihood for result in self.results if result.likelihood]

    @property
    def token_estimates(self) -> dict[str, TokenEstimates]:
        """The estimates of "all" answer tokens, then of each kind, and of each depth where there are several; {} where
        they were not measured."""
        parts: dict[str, list[TokenScores]] = {}
        for found in self.likelihoods:
            depths = found.depths if len(found.depths) > 1 else {}
            by_depth = {f"depth {depth}": scores for depth, scores in depths.items()}
            for name, scores in {"all": found.tokens, **found.kinds, **by_depth}.items():
                parts.setdefault(name, []).append(scores)
        return {
            name: TokenEstimates(
                seeds[0].right.total,
                Estimate.of([scores.nats for scores in seeds], least=0.0),
                Estimate.of([scores.right for scores in seeds]),
            )
            for name, seeds in parts.items()
        }

    @property
    def gap(self) -> tuple[str, Estimate] | None:
        """The nats of the control less those of the rows that it is the control of, with its name; None without one."""
        gaps = [found.gap for found in self.likelihoods if found.gap]
        return (gaps[0].name, Estimate.of([gap.nats for gap in gaps])) if gaps else None

    @property
    def gap_by_depth(self) -> dict[int, Estimate]:
        """The same by depth, where there are several."""
        gaps = [found.gap.depths for found in self.likelihoods if found.gap]
        depths = gaps[0] if gaps and len(gaps[0]) > 1 else {}
        return {depth: Estimate.of([gap[depth] for gap in gaps]) for depth in depths}

    @property
    def positions(self) -> list[NatsByPosition]:
        """Nats by position, for each seed; [] where rows are no documents."""
        return [result.positions for result in self.results if result.positions]

    @property
    def within(self) -> dict[PositionBin, Estimate]:
        """Nats by the tokens of the window that have been read, after the first window."""
        return _over_seeds([found.within for found in self.positions], least=0.0)

    @property
    def windows(self) -> dict[PositionBin, Estimate]:
        """Nats by the windows that have been read."""
        return _over_seeds([found.windows for found in self.positions], least=0.0)

    @property
    def less_than(self) -> dict[str, dict[PositionBin, Estimate]]:
        """Other variant -> the nats by the tokens of the window that have been read, and of all, less those of it."""
        seeds = [found.less for found in self.positions]
        # a variant may have more seeds than one before it, with which it is compared by those that both have
        names = dict.fromkeys(name for less in seeds for name in less)
        return {name: _over_seeds([less[name] for less in seeds if name in less]) for name in names}

    @property
    def several_tokens(self) -> bool:
        """Whether answers have several tokens, so that the share of tokens right is not that of answers right."""
        answers = sum(share.total for share in self.results[0].accuracy.answers.values())
        return any(found.tokens.right.total > answers for found in self.likelihoods)

    @property
    def tells_more(self) -> bool:
        """Whether the likelihood tells more than the exact match: rows have kinds, or answers several tokens."""
        return bool(self.likelihoods) and (self.several_tokens or bool(self.kinds))

    def cells(self, intervals: bool = True, parts: bool = True, exact: bool = True) -> dict[str, str]:
        """Column -> text, for a table. parts: with a column for each depth and each kind; exact: with exact match."""
        first, answers = self.results[0], self.answers
        # where each row has one answer, the share of rows right is that of answers right
        several = sum(share.total for share in first.accuracy.answers.values()) > first.accuracy.rows.total
        shares = {"rows right": self.rows} if exact and (several or not parts) else {}
        if parts and exact:
            shares |= {f"depth {depth}": estimate for depth, estimate in answers.items()} | self.kinds
        if self.likelihoods:
            scores = self.token_estimates["all"]
            shares |= {"tokens right": scores.right} if self.several_tokens else {}
            shares |= {NATS: scores.nats} | ({GAP: self.gap[1]} if self.gap else {})
        return {
            "model": self.name,
            "N": str(first.sleep_passes),
            "eta": f"{first.fast_weight_lr:.3g}",
            **{column: str(share) if intervals else f"{share.value:z.3f}" for column, share in shares.items()},
            **dict(zip(COST_COLUMNS, self._costs(), strict=True)),
        }

    def _costs(self) -> tuple[str, ...]:
        results = self.results
        tokens, flops, seconds = (
            np.mean([float(cost) for cost in costs])
            for costs in zip(*((each.tokens, each.flops, each.seconds) for each in results), strict=True)
        )
        rate = np.median([each.tokens_per_second for each in results])
        return f"{tokens / 1e6:.3g}M", f"{flops:.2g}", f"{rate:,.0f}", f"{seconds:.0f}"


def _over_seeds(seeds: Sequence[Sequence[PositionBin]], least: float = -math.inf) -> dict[PositionBin, Estimate]:
    """The first seed's bins, which are those of all, with the estimate over seeds. least: of what the nats can be."""
    return {bins[0]: Estimate.of([each.nats for each in bins], least) for bins in zip(*seeds, strict=True)}


def read_variants(evaluation: Path) -> list[VariantResults]:
    """The results of a finished evaluation by variant, in the preset's order."""
    results = RESULTS.load(evaluation)
    return [
        VariantResults(name, [r for r in results if r.variant == name])
        for name in dict.fromkeys(r.variant for r in results)
    ]


def are_documents(variants: Sequence[VariantResults]) -> bool:
    """Whether the rows are documents, of which no variant has any right to its last token: exact match says nothing."""
    return all(variant.positions and not any(variant.values) for variant in variants)


def position_table(
    variants: Sequence[VariantResults], found: Sequence[dict[PositionBin, Estimate]]
) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table of the nats in these bins of each variant, which has nats by position."""
    names = {(each.first, each.name): each.name for bins in found for each in bins}
    columns = [names[key] for key in sorted(names)]
    rows = [
        [
            variant.name,
            str(variant.sleep_passes),
            str(variant.positions[0].window),
            *(str(named.get(name, "")) for name in columns),
        ]
        for variant, bins in zip(variants, found, strict=True)
        for named in [{each.name: nats for each, nats in bins.items()}]
    ]
    return ["model", "N", "L", *columns], rows


def floor_of(variants: Sequence[VariantResults]) -> str:
    """The share of test rows that always guessing the most frequent answer gets right, as text."""
    floors = sorted({f"{result.floor:.3f}" for variant in variants for result in variant.results})
    return " to ".join(dict.fromkeys((floors[0], floors[-1])))


def nats_note(variants: Sequence[VariantResults]) -> str:
    """What the columns of the likelihood are, as text; "" where it was not measured."""
    if not any(variant.likelihoods for variant in variants):
        return ""
    gaps = dict.fromkeys(variant.gap[0] for variant in variants if variant.gap)
    words = " Nats are the mean cross-entropy of an answer token"
    return words + (f"; the gap is the difference to the control, {', '.join(gaps)}." if gaps else ".")


def interval_of(variants: Sequence[VariantResults]) -> str:
    """What the intervals of these variants are, as text."""
    counts = sorted({len(variant.results) for variant in variants})
    if counts[-1] == 1:
        return "95 % interval over test rows"
    if len(counts) == 1:
        return f"95 % interval over {counts[0]} seeds"
    single = ", or over test rows with one" if counts[0] == 1 else ""
    return f"95 % interval over each variant's {counts[0]} to {counts[-1]} seeds{single}"


def table_of(
    variants: Sequence[VariantResults], intervals: bool = True, parts: bool = True
) -> tuple[list[str], list[list[str]]]:
    """The head, and a row of cells for each variant."""
    exact = not are_documents(variants)
    cells = [variant.cells(intervals, parts, exact) for variant in variants]
    found = dict.fromkeys(column for row in cells for column in row)
    # variants may differ in their depths: the shares of all stand together and ascend, and the costs come last
    depths = [f"depth {depth}" for depth in all_depths(variants)]
    others = [column for column in found if column not in {*depths, *COST_COLUMNS}]
    after = others.index("rows right") + 1 if "rows right" in others else others.index("eta") + 1
    columns = [*others[:after], *(depth for depth in depths if depth in found), *others[after:], *COST_COLUMNS]
    return columns, [[row.get(column, "") for column in columns] for row in cells]


def depth_curves(variants: Sequence[VariantResults]) -> dict[str, list[VariantResults]]:
    """Label -> the variants of a curve over depth: of each variant, by its name; of each N, if each variant is asked at
    one depth, and no two of one N at the same."""
    points = {(variant.sleep_passes, *variant.answers) for variant in variants}
    by_passes = all(len(variant.answers) == 1 for variant in variants) and len(points) == len(variants)
    curves: dict[str, list[VariantResults]] = {}
    for variant in variants:
        curves.setdefault(f"N = {variant.sleep_passes}" if by_passes else variant.name, []).append(variant)
    return curves


def all_depths(variants: Sequence[VariantResults]) -> list[int]:
    """The depths of all variants' test rows, ascending."""
    return sorted({depth for variant in variants for depth in variant.answers})


def depths_of(variants: Sequence[VariantResults]) -> tuple[list[str], list[list[str]]]:
    """The share of answers right by depth: the head, and a row of cells for each variant."""
    depths = all_depths(variants)
    rows = [
        [variant.name, *(str(variant.answers[depth]) if depth in variant.answers else "" for depth in depths)]
        for variant in variants
    ]
    return ["answers right, by depth", *map(str, depths)], rows


def tokens_of_kinds(variants: Sequence[VariantResults]) -> tuple[list[str], list[list[str]]]:
    """The share right and the nats of the answer tokens in each kind of row: the head, and a row of cells for each
    variant."""
    cells = [
        {"answer tokens": variant.name}
        | {
            f"{kind}, {what}": str(estimate)
            for kind, found in variant.token_estimates.items()
            if kind in variant.kinds
            for what, estimate in (("right", found.right), (NATS, found.nats))
        }
        for variant in variants
    ]
    columns = list(dict.fromkeys(column for row in cells for column in row))
    return columns, [[row.get(column, "") for column in columns] for row in cells]


def comparison_table(variants: Sequence[VariantResults], width: int) -> Table:
    """The comparison for a terminal of `width` columns. Where it has no room, intervals are left out first, then the
    shares of depths and kinds, then the costs."""
    longest = max(len(variant.name) for variant in variants)
    for parts, costs, intervals in ROOM:
        table = _terminal_table(variants, parts, costs, intervals)
        # long names take several lines before anything is left out
        if Console(width=10**4).measure(table).maximum - max(0, longest - NAME_WIDTH) <= width:
            break
    return table


def _terminal_table(variants: Sequence[VariantResults], parts: bool, costs: bool, intervals: bool) -> Table:
    columns, rows = table_of(variants, intervals, parts)
    left_out = {*(() if costs else COST_COLUMNS), *(() if any(each.tells_more for each in variants) else (NATS,))}
    shown = [i for i, column in enumerate(columns) if column not in left_out]
    what = "held-out documents" if are_documents(variants) else "held-out test rows right"
    table = Table(title=f"{what}{', mean and ' + interval_of(variants) if intervals else ''}", box=SIMPLE_HEAD)
    for i in shown:
        if i == 0:
            table.add_column(columns[i], overflow="fold", min_width=NAME_WIDTH)
        else:
            table.add_column(columns[i], no_wrap=True)
    for row in rows:
        table.add_row(*(row[i] for i in shown))
    return table
