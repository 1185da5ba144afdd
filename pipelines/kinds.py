"""Kinds of problems within a task, whose accuracies are told apart."""

from __future__ import annotations

from datagen.gsm.text import POSITIVE
from datagen.rows import Rows
from datagen.schema import Dataset
from pipelines.plain import gsm_text


def kinds_of(rows: Rows, dataset: Dataset) -> list[str]:
    """GSM: forward or reverse, of each row; [] for tasks with one kind."""
    if dataset.task != "gsm":
        return []
    # only a reverse problem holds a quantity of which nothing else is told
    texts = (gsm_text(tokens, dataset) for tokens in rows.tokens.tolist())
    return ["reverse" if f"{POSITIVE}." in text else "forward" for text in texts]
