"""How many rows a shard of a dataset has. Needs only NumPy."""

from __future__ import annotations

from datagen.checks import require
from datagen.task import Task

SHARD_ROWS = 16_384
SHARD_TOKENS = 2**24  # limit for shards of long rows, so that they fit in memory: 32 MiB of uint16
SHARD_LABELS = 2**25  # of traces: 128 MiB of int32


def rows_per_shard(task: Task) -> int:
    """Rows in a full shard: SHARD_ROWS, or fewer if the longest row of the task has more than 1,024 tokens, or its
    traces more than 2,048 labels. Raises ValueError if the traces of one row are too long for a shard."""
    labels = task.trace_labels
    allowed = f"at most {SHARD_LABELS}, the labels that a shard has room for: take rows with fewer tokens or traces"
    require(labels <= SHARD_LABELS, "trace_labels", labels, allowed)
    return min(SHARD_ROWS, max(1, SHARD_TOKENS // task.row_length), SHARD_LABELS // max(1, labels))
