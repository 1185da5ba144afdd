"""The interface of a task, the lookup of tasks by name, and their random streams. Needs only NumPy."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import Field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datagen.canonical import canonical_json, fingerprint_of, identifying_fields
from datagen.checks import require_whole
from datagen.rows import Rows
from datagen.tokenizer import Tokenizer
from datagen.user_code import import_named, is_path
from datagen.wording import Wording

SPLITS = ("train", "validation", "test")
MAX_SEED = 2**63 - 1
TOKENIZER_FIELD = "tokenizer"


class Task(Wording, ABC):
    """Base class of tasks. A task is a frozen dataclass that validates its fields, the config, and generates rows.

    A subclass defines `vocabulary`, `row_length` and `sample`; everything else has a default. `name` is the class name
    in lower case unless the class sets it; the dataset's directory and the registered model are named after it.
    `unasked` names the fields that leave the questions of test rows as they are, such as those of training rows alone.
    docs/extending.md shows an example; `datagen.check_task` tests a task.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    name: ClassVar[str]
    unasked: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()
        known = _TASKS.setdefault(cls.name, cls)
        if known.__module__ != cls.__module__:
            raise ValueError(
                f"name = {cls.name!r}: is the task {known.__module__}:{known.__qualname__} already; give "
                f"{cls.__module__}:{cls.__qualname__} another name"
            )
        _TASKS[cls.name] = cls  # a reloaded module defines the class again

    @staticmethod
    def named(path: str) -> type[Task]:
        """The task class with this name, or at this path "module:Class".

        Raises ValueError, which lists the tasks that exist, if there is no such task.
        """
        if path in _TASKS:
            return _TASKS[path]
        if not is_path(path):
            known = ", ".join(_TASKS)
            raise ValueError(f"must be {known}, or module:Class for a task of your own, such as my_tasks:Parity")
        module, name = import_named(path)
        classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
        tasks = ", ".join(key for key, value in classes.items() if issubclass(value, Task) and value is not Task)
        found = classes.get(name)
        if found is None:
            raise ValueError(f"{module.__name__} has no class {name}; its tasks are: {tasks or 'none'}")
        if not issubclass(found, Task):
            raise ValueError(f"{name} is not a task: derive it from datagen.Task; tasks there: {tasks or 'none'}")
        if missing := sorted(found.__abstractmethods__):
            raise ValueError(f"{name} does not define {', '.join(missing)}, which every task must")
        parameters = found.__dict__.get("__dataclass_params__")
        if parameters is None or not parameters.frozen:
            raise ValueError(f"{name} is not a frozen dataclass: put @dataclass(frozen=True) above it")
        return found

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Token id -> its text. The last entry is PAD_NAME if rows are padded on the left."""

    @property
    @abstractmethod
    def row_length(self) -> int:
        """Tokens in the longest row that the task can generate."""

    @abstractmethod
    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, a function of (config, split, seed, shard); fewer rows must be a prefix."""

    @property
    def context_length(self) -> int | None:
        """Tokens before the first question; None if rows differ in this number."""
        return None

    @property
    def max_depth(self) -> int:
        """The greatest depth of an answer in training rows; each task defines what its depth counts."""
        return 1

    @property
    def trace_labels(self) -> int:
        """Labels in the traces of the row that has the most, 0 if there are no traces: a shard has fewer rows where
        they are many."""
        return 0

    def with_depth(self, depth: int) -> Task:
        """The same task with another greatest depth. Raises ValueError if the task has only one."""
        raise ValueError(f"depth = {depth!r:.200}: the task {self.name} has one depth; it does not define with_depth")

    def asked_at(self, rows: Rows, depth: int) -> Rows:
        """Each question of these rows in a row of its own, with the same context, asked at `depth` instead of at its
        own. Raises ValueError if the task cannot ask its questions so."""
        raise ValueError(
            f"depth = {depth!r:.200}: the task {self.name} cannot ask a question at another depth; it does not define "
            "asked_at"
        )

    def check_rows(self, split: str, rows: int) -> None:
        """Raise ValueError if the task has not so many rows of a split. The default: it can generate any number."""

    def identity(self) -> dict[str, Any]:
        """What identifies the config: its fields, but a tokenizer by its content, wherever it lies."""
        fields = identifying_fields(self)
        if (tokenizer := self.read_tokenizer()) is not None:
            fields[TOKENIZER_FIELD] = tokenizer.sha256
        return fields

    def test_identity(self) -> str:
        """A fingerprint of what test rows ask: equal for tasks whose results can be compared."""
        asked = {name: value for name, value in self.identity().items() if name not in self.unasked}
        return fingerprint_of([self.name, asked])

    def read_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that a field `tokenizer` names, the path of a tokenizer.json or of a directory with one; None
        without such a field. Datasets keep a copy of it. Raises ValueError as Tokenizer.read."""
        path = getattr(self, TOKENIZER_FIELD, None)
        return None if path is None else Tokenizer.read(path)

    @classmethod
    def wording(cls, config: Mapping[str, Any]) -> Wording:
        """What writes a dataset's rows as text, from the config in its dataset.json. Raises ValueError or TypeError if
        the config is not one of this task."""
        # JSON stores tuples as lists.
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in config.items()})

    def check_window(self, window: int) -> None:
        """Raise ValueError, which begins with "window", if a model with this window cannot read the rows: if an answer
        would begin a window, or if the context would not fill its windows.

        The default requires that the context fills whole windows, as training sleeps only on full windows, and that the
        rest of the row fits into one window. A task without a `context_length` allows every window.
        """
        context = self.context_length
        if context is None:
            return
        rest = self.row_length - context
        fitting = [each for each in range(context, 1, -1) if context % each == 0 and each >= rest][:3]
        such = f", such as {', '.join(map(str, fitting))}" if fitting else ""
        if context % window:
            raise ValueError(
                f"window = {window}: must be a divisor of the task's context of {context} tokens, so that all of it is "
                f"slept on{such}"
            )
        if rest > window:
            raise ValueError(
                f"window = {window}: must be at least {rest}, so that the query and its answers lie in one window{such}"
            )


_TASKS: dict[str, type[Task]] = {}


def wording_of(name: str, config: Mapping[str, Any]) -> Wording:
    """What writes a dataset's rows as text, from the task and the config in its dataset.json.

    If the task is unknown, or its class no longer accepts the config, the rows are shown as words of the vocabulary.
    """
    try:
        return _TASKS[name].wording(config) if name in _TASKS else Wording()
    except (TypeError, ValueError):
        return Wording()


def task_identity(task: Task) -> dict[str, Any]:
    """What identifies a task: its name and its config."""
    return {"name": task.name, "config": task.identity()}


def check_split(split: object) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r:.200}")


def random_stream(task: Task, split: str, seed: int, shard: int) -> np.random.Philox:
    """The bit generator of one shard.

    Use only its raw words: NumPy keeps them the same in every version, but not the distributions of Generator.
    """
    check_split(split)
    require_whole("seed", seed, 0, MAX_SEED)
    require_whole("shard", shard, 0, MAX_SEED)
    text = canonical_json({"task": task_identity(task), "split": split, "seed": seed, "shard": shard})
    return np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def raw_words(stream: np.random.Philox, words: int) -> npt.NDArray[np.uint64]:
    """The next words of the stream, uint64 [words]."""
    return np.asarray(stream.random_raw(words), dtype=np.uint64)
