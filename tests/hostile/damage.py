"""What may have happened to a file: bytes cut, flipped, doubled or lost, values of JSON replaced, dropped or nested."""

from __future__ import annotations

import json
from random import Random
from typing import Any

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 2**16, 2**31, 2**32, 2**63, 2**64, 10**400, -(10**400)),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", "0", "train", "attention", "../../etc/passwd", "a\x00b", "\u2028", "\ud800", "x" * 5000, "%s {} \\"),
    *([], {}, [[]], [1, 2], [1] * 5000, [None], ["a", "b"], {"": 0}, {"a": {"b": []}}, [[1, 2], [3]]),
)


def damaged(content: bytes, random: Random) -> bytes:
    """`content` after one to four accidents; where it is JSON, half of the time to its values."""
    if random.random() < 0.5:
        try:
            value = json.loads(content)
        except ValueError:
            pass
        else:
            for _ in range(random.randint(1, 3)):
                value = _replaced(value, random)
            return json.dumps(value).encode()
    for _ in range(random.randint(1, 4)):
        content = _accident(content, random)
    return content


def _replaced(value: Any, random: Random) -> Any:
    """`value` with one of its parts, or itself, dropped, doubled, wrapped or made junk of."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        chance = random.random()
        if chance < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if chance < 0.2:
            return {**value, str(random.choice(JUNK))[:50]: random.choice(JUNK)}
        return {**value, key: _replaced(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        chance = random.random()
        if chance < 0.1:
            return value[:at] + value[at + 1 :]
        if chance < 0.2:
            return value[:at] + value[at:] * 2
        return [*value[:at], _replaced(value[at], random), *value[at + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool) and random.random() < 0.4:
        return value + random.choice((-1, 1, 2, 100, -100))
    return random.choice((*JUNK, [value], {"value": value}, str(value)))


def _accident(content: bytes, random: Random) -> bytes:
    start, end = sorted((random.randint(0, len(content)), random.randint(0, len(content))))
    chance = random.random()
    if chance < 0.1:
        return content[:start]
    if chance < 0.2:
        return content[:start] + content[end:]
    if chance < 0.3:
        return content[:end] + content[start : min(end, start + 10_000)] + content[end:]
    if chance < 0.4:
        return content[:start] + random.randbytes(random.randint(0, 40)) + content[start:]
    if chance < 0.42:
        return b"[" * 20_000 + content
    if not content:
        return random.randbytes(8)
    at = random.randrange(len(content))
    flipped = content[at] ^ (1 << random.randrange(8)) if chance < 0.8 else random.randrange(256)
    return content[:at] + bytes([flipped]) + content[at + 1 :]
