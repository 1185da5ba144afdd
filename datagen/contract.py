"""Checks a task against its interface. Pipelines run it on tasks from outside this package, and tests should."""

from __future__ import annotations

import hashlib

import numpy as np

from datagen.rows import NO_LABEL, Ragged, Rows
from datagen.task import SPLITS, Task

PROBE_ROWS = 16


def check_task(task: Task) -> None:
    """Sample a few rows of each split. Raises ValueError, which names the split, if they contradict the task's
    properties, or if sampling them again gives other rows."""
    for split in SPLITS:
        rows = task.sample(split, 0, 0, PROBE_ROWS)
        _check_rows(task, split, rows)
        for fewer in (PROBE_ROWS, PROBE_ROWS // 2):
            if digest(task.sample(split, 0, 0, fewer)) != digest(rows[:fewer]):
                raise _broken(
                    task,
                    split,
                    f"its first {fewer} rows differ when they are sampled again: draw them from "
                    "datagen.task.random_stream alone, row by row",
                )


def _check_rows(task: Task, split: str, rows: Rows) -> None:
    if not isinstance(rows, Rows):
        raise _broken(task, split, f"sample must return datagen.Rows, got {type(rows).__name__}")
    if len(rows) != PROBE_ROWS:
        raise _broken(task, split, f"sample must return the {PROBE_ROWS} rows that were asked for, got {len(rows)}")
    (start, length, depth), size = rows.answers(), len(task.vocabulary)
    tokens = rows.tokens.values if isinstance(rows.tokens, Ragged) else rows.tokens
    if tokens.min() < 0 or tokens.max() >= size:
        raise _broken(
            task, split, f"tokens must be 0..{size - 1}, as the vocabulary, got {tokens.min()}..{tokens.max()}"
        )
    if rows.lengths.max() > task.row_length:
        raise _broken(task, split, f"row_length must be at least {rows.lengths.max()}, a row's, got {task.row_length}")
    if ((start < 0) | (start + length > rows.lengths[:, None])).any():
        raise _broken(task, split, "an answer must lie in its row: answer_start + answer_length exceeds its length")
    if not rows.asked.all():
        raise _broken(task, split, "every row must have an answer")
    _check_traces(task, split, rows)
    if split != "test" and depth.max() > task.max_depth:
        raise _broken(task, split, f"max_depth must be at least {depth.max()}, an answer's, got {task.max_depth}")


def _check_traces(task: Task, split: str, rows: Rows) -> None:
    traces, size = rows.trace_batch(), len(task.vocabulary)
    if traces is None:
        return
    if traces.size and not NO_LABEL <= traces.min() <= traces.max() < size:
        raise _broken(
            task,
            split,
            f"labels of traces must be {NO_LABEL}..{size - 1}, {NO_LABEL} for none, got {traces.min()}..{traces.max()}",
        )
    labels = int((rows.trace_counts * rows.lengths).max())
    if labels > task.trace_labels:
        raise _broken(task, split, f"trace_labels must be at least {labels}, a row's, got {task.trace_labels}")
    at_pads = (traces != NO_LABEL) & (np.arange(traces.shape[2]) < rows.pads[:, None])[:, None]
    if at_pads.any():
        raise _broken(task, split, f"traces must have {NO_LABEL} at the pads of a row, which the model does not read")


def digest(rows: Rows) -> str:
    """SHA-256 of the tokens, answers and traces of rows, in hex."""
    tokens, _ = rows.batch()
    traces = rows.trace_batch()
    columns = (rows.lengths, tokens, *rows.answers(), *([] if traces is None else [rows.trace_counts, traces]))
    return hashlib.sha256(b"".join(column.astype("<i8").tobytes() for column in columns)).hexdigest()


def _broken(task: Task, split: str, why: str) -> ValueError:
    return ValueError(f"task {task.name}, split {split}: {why}")
