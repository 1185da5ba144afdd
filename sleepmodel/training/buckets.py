"""Buckets of rows, so that the rows of a batch differ in length by a few tokens: batches have fewer pads, and on a GPU
the plans of a bucket's batches have few shapes (BatchPlan.shape)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from datagen.rows import Rows
from sleepmodel.config.model import ModelConfig
from sleepmodel.inputs import predicting_windows, sleeping_windows

ROWS_AT_ONCE = 1024
Int64 = npt.NDArray[np.int64]


def buckets_of(rows: Rows, model: ModelConfig, tokens: int) -> Int64:
    """The bucket of each row, int64 [n], ascending with the row's end. The rows of a bucket sleep and predict in the
    same windows, fill the same ones of these, and end in the same window and the same `tokens` tokens of it."""
    kinds = [_kinds(rows[start : start + ROWS_AT_ONCE], model, tokens) for start in range(0, len(rows), ROWS_AT_ONCE)]
    widest = max(part.shape[1] for part in kinds)
    table = torch.cat([F.pad(part, (0, widest - part.shape[1])) for part in kinds])
    found: Int64 = table.unique(dim=0, return_inverse=True)[1].numpy()
    return found


def _kinds(rows: Rows, model: ModelConfig, tokens: int) -> Tensor:
    """What tells buckets apart, int64 [n, 2 + windows]: where a row ends (the window, and how many times `tokens` in
    it), and what it does in each window."""
    given, mask = map(torch.from_numpy, rows.batch())
    asked = predicting_windows(mask, model.window)
    slept = sleeping_windows(given, asked, model)
    used = asked | slept
    full = F.pad(given >= 0, (0, -given.shape[1] % model.window)).unflatten(1, (-1, model.window)).all(2)
    last = (used * torch.arange(1, used.shape[1] + 1, device=used.device)).amax(1) - 1
    # what comes after the last window that is used is not read
    end = (torch.from_numpy(rows.lengths.copy()) - last * model.window).clamp(max=model.window)
    ends = torch.stack([last, -(-end // tokens)], 1)
    return torch.cat([ends, used * (1 + full + 2 * asked + 4 * slept)], 1)


def in_buckets(rows: Int64, buckets: Int64, batch_size: int, stream: np.random.Generator) -> Int64:
    """Row indices [n] in another order: sorted by bucket, cut into batches, and the batches shuffled. A batch in which
    a bucket ends has rows of the next one too. n: a multiple of batch_size. buckets: of all rows."""
    batches = rows[buckets[rows].argsort(kind="stable")].reshape(-1, batch_size)
    return stream.permutation(batches).reshape(-1)
