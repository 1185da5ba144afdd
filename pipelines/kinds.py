"""Kinds of problems within a task, whose accuracies are told apart."""

from __future__ import annotations

from datagen.rows import Rows
from datagen.schema import Dataset
from pipelines.plain import gsm_text


def kinds_of(rows: Rows, dataset: Dataset) -> list[str]:
    """GSM: forward or reverse, of each row; [] for tasks with one kind."""
    if dataset.task != "gsm":
        return []
    # only a reverse problem holds a quantity of which nothing else is told
    lists = (rows.tokens[i : i + 1].tolist()[0] for i in range(len(rows)))
    return ["reverse" if "greater than 0." in gsm_text(tokens, dataset) else "forward" for tokens in lists]
