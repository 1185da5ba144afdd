"""Synthetic reasoning tasks and their Parquet datasets. Importing it needs only NumPy; Ray and Arrow load later."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datagen.contract import check_task
from datagen.depo import Depo
from datagen.facts import Facts
from datagen.gsm import Gsm
from datagen.recall import Recall
from datagen.rows import PAD, Rows
from datagen.rule110 import Rule110
from datagen.task import Task
from datagen.text import Text

if TYPE_CHECKING:
    from datagen.generation import generate
    from datagen.reader import load, read_rows, stream

__all__ = [
    "PAD",
    "Depo",
    "Facts",
    "Gsm",
    "Recall",
    "Rows",
    "Rule110",
    "Task",
    "Text",
    "check_task",
    "generate",
    "load",
    "read_rows",
    "stream",
]

_MODULE_OF = {
    "generate": "datagen.generation",
    "load": "datagen.reader",
    "read_rows": "datagen.reader",
    "stream": "datagen.reader",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'datagen' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
