"""Depo: the distributions of its rows, against their laws and the official samples."""

from __future__ import annotations

from collections import Counter, defaultdict
from math import comb, factorial, sqrt

import numpy as np
import pytest
from scipy import stats

from datagen import Depo
from datagen.depo import SMALL_NODES, SYMBOLS
from datagen.depo_text import Puzzle
from tests.datagen.test_depo import PAPER, puzzles
from tests.datagen.test_depo_text import official_puzzles

TOO_RARE = 1e-4  # a p-value below this is a fault: the seeds are fixed, so a test passes always or never


def chi_square(observed: Counter[int], expected: dict[int, float]) -> float:
    """The p-value of counts whose shares should be `expected`; those that are met less than 5 times are one class."""
    assert set(observed) <= set(expected)
    total, whole = observed.total(), sum(expected.values())
    counts = [(observed[value], total * share / whole) for value, share in expected.items()]
    classes = [pair for pair in counts if pair[1] >= 5]
    rest = [pair for pair in counts if pair[1] < 5]
    if rest:
        classes.append((sum(seen for seen, _ in rest), sum(share for _, share in rest)))
    seen, wanted = zip(*classes, strict=True)
    return float(stats.chisquare(seen, wanted).pvalue)


def uniform(values: range | list[int]) -> dict[int, float]:
    return dict.fromkeys(values, 1.0)


def sizes(nodes: int) -> dict[int, float]:
    return {n: 1 / (n + sqrt(nodes)) for n in range(3, nodes + 1)}


def short_names(n: int) -> dict[int, float]:
    """P(s of n different names have one token), each drawn by a fair coin and again if it is there."""
    shares = {0: 1.0}
    for drawn in range(n):
        further: dict[int, float] = defaultdict(float)
        for short, share in shares.items():
            p_short = (SYMBOLS - short) / SYMBOLS
            p_long = (SYMBOLS**2 - (drawn - short)) / SYMBOLS**2
            further[short + 1] += share * p_short / (p_short + p_long)
            further[short] += share * p_long / (p_short + p_long)
        shares = dict(further)
    return shares


@pytest.fixture(scope="module")
def train() -> list[Puzzle]:
    return puzzles(PAPER, PAPER.sample("train", 11, 0, 3000))


@pytest.fixture(scope="module")
def validation() -> list[Puzzle]:
    return puzzles(PAPER, PAPER.sample("validation", 11, 0, 2000))


def official(qa: bool) -> list[Puzzle]:
    """The first 50 official samples are for training, the other 20 for testing."""
    return official_puzzles()[50:] if qa else official_puzzles()[:50]


def test_sizes_follow_their_law(train: list[Puzzle]) -> None:
    assert chi_square(Counter(len(puzzle.edges) for puzzle in train), sizes(75)) > TOO_RARE
    assert {len(puzzle.edges) for puzzle in train} == set(range(3, 76))


def test_official_sizes_follow_it_too() -> None:
    seen = [len(puzzle.edges) for puzzle in official(qa=False)]
    law = np.cumsum([0, 0, 0, *sizes(75).values()])
    assert stats.kstest(seen, lambda n: law[np.int64(n)] / law[-1]).pvalue > 0.01  # conservative for a discrete law
    assert {len(puzzle.edges) for puzzle in official(qa=True)} == {75}


def hops(rows: list[Puzzle]) -> Counter[int]:
    return Counter(question.hops for puzzle in rows for question in puzzle.questions)


def test_hops(train: list[Puzzle], validation: list[Puzzle]) -> None:
    powers = uniform([1, 2, 4, 8, 16])
    assert chi_square(hops(train), uniform(range(1, 17))) > TOO_RARE
    assert chi_square(hops(official(qa=False)), uniform(range(1, 17))) > 0.01
    assert chi_square(hops(validation), powers) > TOO_RARE
    assert chi_square(hops(official(qa=True)), powers) > 0.01
    assert set(hops(puzzles(Depo(hops=7), Depo(hops=7).sample("validation", 0, 0, 50)))) == {1, 2, 4}


def count_short(rows: list[Puzzle]) -> list[int]:
    return [sum(len(source) == 1 for source, _ in puzzle.edges) for puzzle in rows]


def test_names(train: list[Puzzle], validation: list[Puzzle]) -> None:
    law = short_names(75)
    assert chi_square(Counter(count_short(validation)), law) > TOO_RARE
    mean = sum(short * share for short, share in law.items())
    spread = sqrt(sum((short - mean) ** 2 * share for short, share in law.items()))
    seen = count_short(official(qa=True))
    assert abs(np.mean(seen) - mean) < 2.6 * spread / sqrt(len(seen))  # 99 %

    few = [puzzle for puzzle in train if len(puzzle.edges) == 3]
    assert chi_square(Counter(count_short(few)), short_names(3)) > TOO_RARE
    few = [puzzle for puzzle in train if len(puzzle.edges) < 12]
    for place in (0, -1):
        symbols = Counter(int(source[place][1:]) for puzzle in few for source, _ in puzzle.edges if len(source) == 2)
        assert chi_square(symbols, uniform(range(1, 51))) > TOO_RARE
    symbols = Counter(int(source[0][1:]) for puzzle in few for source, _ in puzzle.edges if len(source) == 1)
    assert chi_square(symbols, uniform(range(1, 51))) > TOO_RARE


def test_every_cycle_and_every_order_of_its_edges_is_equally_likely() -> None:
    """Names ranked in their row: 3! cycles of four nodes times 4! orders."""
    task = Depo(9, 4, 2)
    seen: Counter[tuple[tuple[int, int], ...]] = Counter()
    for puzzle in puzzles(task, task.sample("train", 5, 0, 12_000)):
        if len(puzzle.edges) == 4:
            names = sorted(source for source, _ in puzzle.edges)
            seen[tuple((names.index(source), names.index(target)) for source, target in puzzle.edges)] += 1
    assert len(seen) == 24 * 6
    assert stats.chisquare(list(seen.values())).pvalue > TOO_RARE


def test_names_of_one_token_lie_anywhere_on_the_cycle(validation: list[Puzzle]) -> None:
    """They are drawn sooner, so a cycle in the order of the draw would have more edges between two of them."""
    excess = []
    for puzzle, short in zip(validation, count_short(validation), strict=True):
        edges = sum(len(source) == len(target) == 1 for source, target in puzzle.edges)
        excess.append(edges - short * (short - 1) / (len(puzzle.edges) - 1))
    assert abs(np.mean(excess)) < 4 * np.std(excess) / sqrt(len(excess))


def test_every_edge_is_asked_about_equally_often(validation: list[Puzzle]) -> None:
    """By the place of its edge in the row: where an answer stands tells nothing of which it is."""
    places: list[Counter[int]] = [Counter(), Counter()]
    for puzzle in validation:
        sources = [source for source, _ in puzzle.edges]
        places[0].update(sources.index(question.node) for question in puzzle.questions)
        places[1].update([sources.index(puzzle.questions[0].node)])
    assert all(chi_square(place, uniform(range(75))) > TOO_RARE for place in places)


def test_below_makes_rows_of_every_level() -> None:
    task = Depo(8, 4, 4, names=32, least=8, drawn="below")
    rows = task.sample("train", 4, 0, 20_000)
    law = {level: sum((level / b) ** 4 - ((level - 1) / b) ** 4 for b in range(level, 5)) for level in range(1, 5)}
    assert chi_square(Counter(rows.depths.tolist()), law) > TOO_RARE
    names = Counter(token for row in rows.tokens.tolist() for token in row[:16:2])
    assert chi_square(names, uniform(range(32))) > TOO_RARE


@pytest.mark.parametrize(("nodes", "limit"), [(SMALL_NODES, 1e-18), (SMALL_NODES + 1, 1e-22), (75, 1e-300)])
def test_large_contexts_do_not_meet(nodes: int, limit: float) -> None:
    """The probability that two rows of N nodes have one context: the same names, the same cycle, the same order."""
    same_names = sum(
        share**2 / (comb(SYMBOLS, short) * comb(SYMBOLS**2, nodes - short))
        for short, share in short_names(nodes).items()
        if share
    )
    assert same_names / (factorial(nodes - 1) * factorial(nodes)) < limit
