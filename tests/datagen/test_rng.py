"""Integers from raw words: uniform, and the same in every version."""

from __future__ import annotations

from collections import Counter

from tests.datagen.gsm.problems import rng


def test_uniform() -> None:
    source = rng(0)
    counts = Counter(source.between(1, 6) for _ in range(60_000))
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]
    # 5 standard deviations of a count.
    assert max(abs(count - 10_000) for count in counts.values()) < 5 * (60_000 * 5 / 36) ** 0.5


def test_every_order_is_as_likely() -> None:
    source = rng(1)
    counts = Counter(tuple(source.shuffled("abc")) for _ in range(6000))
    assert len(counts) == 6
    assert max(abs(count - 1000) for count in counts.values()) < 5 * (6000 * 5 / 36) ** 0.5


def test_the_same_in_every_version() -> None:
    source = rng(5)
    assert [source.below(1000) for _ in range(5)] == [733, 590, 207, 443, 248]
    assert source.choice("abcdefgh") == "f"
    assert source.shuffled(range(5)) == [1, 0, 2, 4, 3]
