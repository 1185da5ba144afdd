"""What every task promises, and the randomness it may use. Needs numpy alone."""

from __future__ import annotations

import hashlib
from dataclasses import Field, asdict
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from datagen.canonical import canonical_json
from datagen.checks import require_whole
from datagen.rows import Rows

SPLITS = ("train", "validation", "test")
MAX_SEED = 2**63 - 1


class Task(Protocol):
    """A frozen dataclass that checks itself when built; its fields are the task's config."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def name(self) -> str: ...

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Token id -> what it stands for; the last may be PAD_NAME, if rows have pads at their left."""

    @property
    def row_length(self) -> int:
        """Tokens in the longest row that the task can make."""

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard: a function of (config, split, seed, shard), fewer rows being a prefix."""


def task_identity(task: Task) -> dict[str, Any]:
    return {"name": task.name, "config": asdict(task)}


def check_split(split: object) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r:.200}")


def random_stream(task: Task, split: str, seed: int, shard: int) -> np.random.Philox:
    """The bit generator of one shard.

    Read only its raw words: numpy keeps those the same in every version, but not the distributions of Generator.
    """
    check_split(split)
    require_whole("seed", seed, 0, MAX_SEED)
    require_whole("shard", shard, 0, MAX_SEED)
    text = canonical_json({"task": task_identity(task), "split": split, "seed": seed, "shard": shard})
    return np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def raw_words(stream: np.random.Philox, words: int) -> npt.NDArray[np.uint64]:
    """The next words of the stream, uint64 [words]."""
    return np.asarray(stream.random_raw(words), dtype=np.uint64)
