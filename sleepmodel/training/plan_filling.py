"""Plans of batches filled up with pads, so that the plans of a bucket (training/buckets.py) have few shapes."""

from __future__ import annotations

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel.batch_plan import BatchPlan, Group
from sleepmodel.mixers.base import PAD, Span

NO_TARGET = -100  # which cross_entropy leaves out


def filled(plan: BatchPlan, window: int, multiple: int) -> BatchPlan:
    """A plan of the same batch with the same loss, but with more pads: the width of each window is rounded up to
    `multiple`, or to `window` if that is less, and the number of answers to one of few, with answers that have no
    target. The plan must have no traces. A window of less than full width gets a mask even if it has no pads, so that
    the shape does not depend on them."""
    groups = [
        [_filled_group(group, len(each.tokens), window, multiple) for group in each.groups] for each in plan.windows
    ]
    windows = []
    for each, own in zip(plan.windows, groups, strict=True):
        width = _rounded(each.tokens.shape[1], window, multiple)
        tokens = F.pad(each.tokens, (0, width - each.tokens.shape[1]), value=PAD)
        span = _filled_span(each.span, len(tokens), width, window)
        windows.append(each._replace(tokens=tokens, span=span, groups=tuple(own)))
    before = chain.from_iterable(each.groups for each in plan.windows)
    pairs = [(old.at, new.at) for old, new in zip(before, chain.from_iterable(groups), strict=True)]
    asked = torch.cat(
        [torch.arange(len(new), device="cpu") < len(old) for old, new in pairs if old is not None and new is not None]
    )
    order = torch.cat([asked.nonzero()[plan.order, 0], asked.logical_not().nonzero()[:, 0]])
    targets = F.pad(plan.targets, (0, len(order) - len(plan.order)), value=NO_TARGET)
    return plan._replace(windows=tuple(windows), order=order, targets=targets)


def _filled_group(group: Group, batch: int, window: int, multiple: int) -> Group:
    before = group.span.place.shape[1]
    width = _rounded(before, window, multiple)
    span = _filled_span(group.span, batch if group.rows is None else len(group.rows), width, window)
    if group.at is None:
        return group._replace(span=span)
    at = group.at // before * width + group.at % before
    return group._replace(span=span, at=F.pad(at, (0, _room(len(at)) - len(at))))


def _filled_span(span: Span, rows: int, width: int, window: int) -> Span:
    before = span.place.shape[1]
    if span.real is None and before == window:
        return span
    real: Tensor = torch.ones(rows, before, dtype=torch.bool, device="cpu") if span.real is None else span.real
    return Span.of(F.pad(real, (0, width - before)), start=span.start)


def _rounded(tokens: int, window: int, multiple: int) -> int:
    return min(window, -(-tokens // multiple) * multiple)


def _room(answers: int) -> int:
    """The number of answers, rounded up by less than an eighth: there are eight such numbers from one power of two to
    the next."""
    step = max(1, 2 ** (answers - 1).bit_length() // 16)
    return -(-answers // step) * step
