"""How far the backward reaches: the windows and passes at which states become constants (see Truncation)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel.mixers.base import Mixer
from sleepmodel.states import map_tensors


def window_cuts(answers: Tensor, pieces: Tensor, reach: int | None) -> tuple[Tensor, Tensor]:
    """Before which windows the states of a row are detached, and through which any loss is differentiated, both
    bool [B, windows].

    answers: the windows that predict answers; pieces: those with a loss of which a row is cut into pieces of M; both
    bool [B, windows]. reach: M.
    """
    cuts, reached, windows = torch.zeros_like(answers), answers | pieces, answers.shape[1]
    if reach is not None:
        first = answers & ~F.pad(answers, (1, 0))[:, :-1]  # the first of several windows in a row with answers
        cuts = F.pad(first[:, reach - 1 :], (0, min(reach - 1, windows)))
        since = torch.zeros(len(answers), device=answers.device)  # windows since the last cut
        for i in range(windows):
            cuts[:, i] |= pieces[:, i] & (since >= reach)
            since = torch.where(cuts[:, i], 1, since + 1)
    for i in range(windows - 2, -1, -1):
        reached[:, i] |= reached[:, i + 1] & ~cuts[:, i + 1]
    return cuts, reached


def detached(states: tuple[Any, ...], rows: Tensor) -> tuple[Any, ...]:
    """The states, with those of the rows (bool [B]) as constants."""

    def detach(leaf: Tensor) -> Tensor:
        cut = rows.view(-1, *[1] * (leaf.dim() - 1))
        return torch.where(cut, leaf.detach(), leaf) if leaf.requires_grad else leaf

    result: tuple[Any, ...] = map_tensors(detach, states)
    return result


def cut_between_passes(mixers: Iterable[Mixer], before: tuple[Any, ...], states: tuple[Any, ...]) -> tuple[Any, ...]:
    """The states between two passes of a sleep as constants, except that a gradient of the fast weights goes unchanged
    to the states `before` the sleep. A state that no pass has changed keeps its gradient."""
    return tuple(
        new if new is old else mixer.straight_through(old, map_tensors(Tensor.detach, new))
        for mixer, old, new in zip(mixers, before, states, strict=True)
    )
