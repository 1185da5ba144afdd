"""Whether a task keeps what it promises: run before a pipeline starts on a task that is not ours, and in its tests."""

from __future__ import annotations

import hashlib

from datagen.rows import Ragged, Rows
from datagen.task import SPLITS, Task

PROBE_ROWS = 16


def check_task(task: Task) -> None:
    """Make a few rows of each split, and raise ValueError, which names the split, where they are not what the task
    says of itself, or are not the same when they are made again."""
    for split in SPLITS:
        rows = task.sample(split, 0, 0, PROBE_ROWS)
        _check_rows(task, split, rows)
        for fewer in (PROBE_ROWS, PROBE_ROWS // 2):
            if digest(task.sample(split, 0, 0, fewer)) != digest(rows[:fewer]):
                raise _broken(
                    task,
                    split,
                    f"its first {fewer} rows are others when they are made again: draw them from "
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
        raise _broken(task, split, "an answer must lie in its row: answer_start + answer_length is behind its end")
    if not (length.max(axis=1) > 0).all():
        raise _broken(task, split, "every row must have an answer")
    if depth.max() > task.max_depth:
        raise _broken(task, split, f"max_depth must be at least {depth.max()}, an answer's, got {task.max_depth}")


def digest(rows: Rows) -> str:
    """What tells rows from others: SHA-256, hex, of their tokens and answers."""
    tokens, _ = rows.batch()
    columns = (rows.lengths, tokens, *rows.answers())
    return hashlib.sha256(b"".join(column.astype("<i8").tobytes() for column in columns)).hexdigest()


def _broken(task: Task, split: str, why: str) -> ValueError:
    return ValueError(f"task {task.name}, split {split}: {why}")
