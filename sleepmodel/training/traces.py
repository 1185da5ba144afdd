"""The traces of training rows: what must hold before a training, and what a micro-batch counts for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from datagen.checks import require
from datagen.rows import Rows
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import TrainConfig
from sleepmodel.inputs import counted_passes, limit_of_traces, predicting_windows, sleeping_windows, used_labels
from sleepmodel.training.curriculum import levels_of

PROBE_ROWS = 64  # with the most traces, which are looked through for a label that counts


def check_trainable(rows: Rows, model: ModelConfig, config: TrainConfig) -> None:
    """Raise ValueError if `config.trace_weight` has no meaning for some training rows: if they have no traces, if none
    of the labels counts, or if a row has more traces than its N has passes for them. Of a dataset that is read in
    blocks, `train` passes the first: in a later one, the model refuses too many traces at their batch."""
    if config.trace_weight == 0:
        return
    require(rows.traces is not None, "trace_weight", config.trace_weight, "0, as the training rows have no traces")
    allowed = "null with trace_weight above 0: use truncation.every"
    require(config.truncation.passes is None, "truncation.passes", config.truncation.passes, allowed)
    levels, counts = levels_of(rows, config.curriculum), rows.trace_counts
    for level in np.unique(levels).tolist():
        own = config.curriculum.passes(level, model.reads_first)
        passes, most = own or min(config.sleep_passes, default=model.sleep_passes), int(counts[levels == level].max())
        if most + model.reads_first > passes:
            remedy = "take a smaller steps_per_pass" if own else "set train.curriculum.steps_per_pass, or a larger N"
            raise ValueError(
                f"traces of {counted_passes(most)} in training rows of depth {level}: "
                f"{limit_of_traces(passes, model)}; {remedy}"
            )
    longest = rows[np.argsort(-counts)[:PROBE_ROWS]]
    allowed = "0, as no label of the training rows counts: none is at a token of a window that is slept on"
    require(bool(labels_of(longest, model)[1].any()), "trace_weight", config.trace_weight, allowed)


def labels_of(rows: Rows, model: ModelConfig) -> tuple[Tensor, Tensor]:
    """The traces of a batch, int64 [B, P, T], and how many labels of each row count, int64 [B]."""
    traces = rows.trace_batch()
    assert traces is not None
    labels = torch.from_numpy(traces)
    tokens, mask = map(torch.from_numpy, rows.batch())
    slept = sleeping_windows(tokens, predicting_windows(mask, model.window), model)
    return labels, (used_labels(labels, tokens, slept, model.window) >= 0).sum((1, 2))
