"""Everything that the model decides from the contents of a batch, before the batch is on its device.

Algorithm 1 branches: which rows sleep on a window, which predict answers in it and where, where rows end, and where
gradients do. If the model looked at a batch on a GPU for that, each look would stop the host until the GPU has caught
up. So a plan is made of the batch on the CPU: plain values, which decide what runs, and tensors of indices, which the
kernels read. For two plans with equal `shape`, a model runs the same kernels on tensors of the same sizes; transfers.py
packs and unpacks a plan.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import Truncation
from sleepmodel.inputs import (
    any_in_window,
    check_batch,
    check_traces,
    predicting_windows,
    predictors,
    sleeping_windows,
    used_labels,
)
from sleepmodel.mixers.base import Span
from sleepmodel.states import select_rows
from sleepmodel.transfers import moved, shape_of
from sleepmodel.truncation import window_cuts

NO_TRUNCATION = Truncation()


class Labels(NamedTuple):
    """The labels of the traces after one pass. at: int64 [n], where they are in the window, flattened to [B * T];
    tokens: int64 [n]."""

    at: Tensor
    tokens: Tensor


class Group(NamedTuple):
    """Rows that do the same in a window, which is cut off after the last token of the longest of them.

    rows: int64 [b]; None: all rows; span: of these rows, [b or 1, T]; at: int64 [n], the tokens from which answers are
    predicted, in the window of these rows, flattened to [b * T]; None: these rows do not predict, but only sleep;
    passes: N; 1 if they only predict; labels: by pass; None without traces, or if they only predict.
    """

    rows: Tensor | None
    span: Span
    at: Tensor | None
    passes: int
    labels: tuple[Labels, ...] | None


class Window(NamedTuple):
    """A window in which some rows sleep or predict; others are idle.

    tokens: int64 [B, T]; span: of all rows; cut: bool [B], the rows whose states become constants before the window;
    None: no row; learning: whether a loss is differentiated through it.
    """

    tokens: Tensor
    span: Span
    cut: Tensor | None
    learning: bool
    groups: tuple[Group, ...]


class BatchPlan(NamedTuple):
    """What the model runs for a batch.

    order: int64 [answers], from the order of windows and their groups to that of rows; targets: int64 [answers], the
    tokens of the answers, row by row; labelled: int64 [], the labels of all traces, at least 1; None without traces.
    """

    windows: tuple[Window, ...]
    order: Tensor
    targets: Tensor
    labelled: Tensor | None

    @property
    def shape(self) -> Hashable:
        """The plan with the shape and dtype of each tensor in its place."""
        return shape_of(self)

    def to(self, device: torch.device) -> BatchPlan:
        """The plan with its tensors on a device. They move together, and the host does not wait for a GPU."""
        return self if self.order.device == device else moved(self, device)


def plan_batch(
    tokens: Tensor,
    loss_mask: Tensor,
    config: ModelConfig,
    passes: int,
    traces: Tensor | None = None,
    truncation: Truncation = NO_TRUNCATION,
) -> BatchPlan:
    """The plan of a batch, on the CPU. Arguments and errors are those of SleepModel.forward; passes: N."""
    tokens, loss_mask = tokens.cpu(), loss_mask.cpu()
    check_batch(tokens, loss_mask, config)
    asked, predicting = predicting_windows(loss_mask, config.window), predictors(loss_mask)
    real, slept = tokens >= 0, sleeping_windows(tokens, asked, config)
    labels = None
    if traces is not None:
        traces = traces.cpu()
        check_traces(traces, tokens, passes, config, truncation)
        labels = used_labels(traces, tokens, slept, config.window)
    cuts, reached = _cut_windows(asked, labels, config, truncation)
    windows, start = list[Window](), torch.zeros(1, 1, dtype=torch.int64, device="cpu")
    for i in range(asked.shape[1]):
        here = slice(i * config.window, (i + 1) * config.window)
        part = _Part(real[:, here], predicting[:, here], start, None if labels is None else labels[:, :, here])
        span, groups = _span(part.real, start), _groups(part, asked[:, i], slept[:, i], passes)
        if groups:
            cut = cuts[:, i] if cuts[:, i].any() else None
            windows.append(Window(tokens[:, here], span, cut, bool(reached[:, i].any()), groups))
        start = start + span.length()
    row, column = predicting.nonzero(as_tuple=True)
    window = column // config.window
    # of a window, the rows that only predict come before those that sleep too
    order = (2 * window + slept[row, window]).argsort(stable=True).argsort()
    labelled = None if labels is None else (labels >= 0).sum().clamp(min=1)
    return BatchPlan(tuple(windows), order, tokens[loss_mask], labelled)


class _Part(NamedTuple):
    """A window of some rows. real, predicting: bool [B, T]; start: of their spans; labels: int64 [B, P, T]."""

    real: Tensor
    predicting: Tensor
    start: Tensor
    labels: Tensor | None


def _groups(part: _Part, awake: Tensor, asleep: Tensor, passes: int) -> tuple[Group, ...]:
    """The groups of a window. awake, asleep: bool [B], the rows that predict and those that sleep."""
    kinds = (asleep & ~awake, False, True), (awake & ~asleep, True, False), (awake & asleep, True, True)
    return tuple(_group(part, rows, wake, sleep, passes) for rows, wake, sleep in kinds if rows.any())


def _group(part: _Part, wanted: Tensor, awake: bool, asleep: bool, passes: int) -> Group:
    rows = None if wanted.all() else wanted.nonzero()[:, 0]
    part = part if rows is None else select_rows(part, rows)
    length = int(part.real.any(0).nonzero().max()) + 1
    labels = part.labels[:, :, :length].unbind(1) if asleep and part.labels is not None else None
    return Group(
        rows=rows,
        span=_span(part.real[:, :length], part.start),
        at=_indices(part.predicting[:, :length]) if awake else None,
        passes=passes if asleep else 1,
        labels=None if labels is None else tuple(map(_labels, labels)),
    )


def _labels(told: Tensor) -> Labels:
    at = _indices(told >= 0)
    return Labels(at, told.flatten()[at])


def _indices(wanted: Tensor) -> Tensor:
    """The indices of what is true in a mask [B, T], flattened to [B * T]: int64 [n]."""
    return wanted.flatten().nonzero()[:, 0]


def _span(real: Tensor, start: Tensor) -> Span:
    """The span of a window from its first token on; real: bool [B, T]."""
    return Span.whole(real.shape[1], real.device, start) if real.all() else Span.of(real, start=start)


def _cut_windows(
    asked: Tensor, labels: Tensor | None, config: ModelConfig, truncation: Truncation
) -> tuple[Tensor, Tensor]:
    """`window_cuts` of a batch; asked: the windows that predict answers."""
    pieces = asked if config.sleep_on == "all" else torch.zeros_like(asked)
    if labels is not None:
        pieces = pieces | any_in_window((labels >= 0).any(1), config.window)
    return window_cuts(asked, pieces, truncation.windows)
