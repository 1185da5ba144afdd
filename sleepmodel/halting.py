"""Adaptive computation: a sleep that ends when a further pass changes nothing, and so makes as many passes as it needs.

A row that halts after n passes has the states of a sleep with N = n, up to rounding: rows leave a batch at different
passes, and a kernel may sum a smaller batch in another order. The rule sees pass n before it knows that this was the
last one, so it is a whole pass, where the last of N fixed ones computes only what is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from datagen.checks import require, require_one_of, require_real
from sleepmodel.mixers.base import Span
from sleepmodel.model import CHUNK_LOGITS, Pass, SleepModel, States
from sleepmodel.states import merge_rows, named_tensors, select_rows

MEASURES = ("readout", "state")


@dataclass(frozen=True)
class Halting:
    """When the passes of a row's sleep end: when one of them has changed at most `change` of what the pass before left.

    change: 0 to 1; 0: the pass repeated the one before.
    measure: "readout": the share of the window's tokens at which another token of the readout is now the likeliest.
        "state": the distance between the fast weights of the loop's blocks after the two passes, over the norm of the
        earlier ones (Frobenius, all blocks together).

    The second pass is the first that is compared; with `reads_first` it is the third, as the first makes no step.
    Raises ValueError if a field is out of range.
    """

    change: float = 0.0
    measure: Literal["readout", "state"] = "readout"

    def __post_init__(self) -> None:
        require_real("change", self.change, 0.0, 1.0, "a number from 0 to 1")
        require_one_of("measure", self.measure, MEASURES)

    def check(self, model: SleepModel, most: int) -> None:
        """Raise ValueError if this rule can have no effect on a model that makes at most `most` passes."""
        least = first_compared(model) + 1
        allowed = f"at least {least} with halting: pass {least - 1} is the first that is compared with the one before"
        require(most >= least, "sleep_passes", most, allowed)
        repeats = len(model.sleep_schedule(2)) == 2
        allowed = f"such that a further pass of the loop leaves something, under {model.config.eviction} eviction"
        require(repeats, "mixers", model.config.mixers, f"{allowed}, for halting")
        if self.measure == "state":
            start, end = model.loop
            kept = any(block.mixer.has_fast_weights for block in model.stack[start:end])
            require(kept, "halting.measure", self.measure, '"readout" for a model whose loop has no fast weights')

    def look(self, model: SleepModel, h: Tensor, states: States) -> tuple[Tensor, ...]:
        """What is compared, after a pass: tensors [B, ...]. h: after the loop."""
        if self.measure == "state":
            return _fast_weights(model, states)
        # the logits of a whole window, with a large vocabulary, would be the largest tensor of the sleep
        tokens = h.flatten(0, 1).split(max(1, CHUNK_LOGITS // model.config.vocab_size))
        return (torch.cat([model.readout(part).argmax(-1) for part in tokens]).view(h.shape[:2]),)

    def reached(self, before: tuple[Tensor, ...], after: tuple[Tensor, ...], span: Span) -> Tensor:
        """Which rows halt, bool [B], by what `look` found after two passes."""
        if self.measure == "state":
            return _norm([new - old for old, new in zip(before, after, strict=True)]) <= self.change * _norm(before)
        real = span.place >= 0
        return ((before[0] != after[0]) & real).sum(1).double() / real.sum(1) <= self.change


def first_compared(model: SleepModel) -> int:
    """The pass, counted from 1, that is compared with the one before it as the first one."""
    return 2 + int(model.config.reads_first)


class _Sleepers(NamedTuple):
    """Rows that are still asleep. rows: int64 [b], their indices in the batch; woken: their states after the first
    pass; seen: what the rule looked at after the pass before."""

    rows: Tensor
    h: Tensor
    states: States
    woken: States
    span: Span
    seen: tuple[Tensor, ...]


def refine_until_halted(
    model: SleepModel, h: Tensor, states: States, before: States, span: Span, most: int, halting: Halting
) -> tuple[States, Tensor]:
    """Sleep on a window that `SleepModel.wake` has read, each row until it halts: (states, passes int64 [B]).

    most: the passes of a row that does not halt before. The other arguments are those of `SleepModel.refine`, with a
    tensor as `span.start`. A row that has halted takes part in no further pass; the blocks after the loop run once,
    when it has halted.
    """
    made = torch.full((len(h),), most, device=h.device)
    first, (start, end) = first_compared(model), model.loop
    if most <= first:
        return model.refine(h, states, before, span, most)[0], made
    loop, found = Pass([*range(start, end)], None), model.initial_states(len(h))
    left = _Sleepers(torch.arange(len(h), device=h.device), h, (*states[:end], *before[end:]), states, span, ())
    for n in range(2, most + 1):
        if n == first:
            left = left._replace(seen=halting.look(model, left.h, left.states))
        h, states = model.run_pass(n - 1, loop, left.h, left.states, left.span)
        left = left._replace(h=h, states=states)
        if n < first:
            continue
        seen = halting.look(model, h, states)
        halted = halting.reached(left.seen, seen, left.span) | (n == most)
        left = left._replace(seen=seen)
        if halted.any():
            group: _Sleepers = select_rows(left, halted.nonzero()[:, 0])
            found = merge_rows(found, _ended(model, group), group.rows)
            made[group.rows] = n
        if halted.all():
            break
        left = select_rows(left, (~halted).nonzero()[:, 0])
    return found, made


def _ended(model: SleepModel, group: _Sleepers) -> States:
    """The states of rows that have halted: what is left of the last pass, the blocks after the loop, and eviction."""
    start, end = model.loop
    last = model.sleep_schedule(2)[-1]
    written = last.written if last.written is not None and last.written >= end else None
    behind = Pass([i for i in last.whole if i >= end], written)
    begun = model.begin_pass(group.states, behind.blocks)
    _, _, states = model.run_blocks(behind, group.h, begun, group.span)
    repeated = {*range(start, end), *behind.blocks}
    earlier = [state if i in repeated else None for i, state in enumerate(group.woken)]
    return model.evict(states, group.span, earlier)


def _fast_weights(model: SleepModel, states: States) -> tuple[Tensor, ...]:
    """What a further pass would begin with in the blocks of the loop."""
    start, end = model.loop
    leaves = (leaf for _, leaf in named_tensors(model.begin_pass(states)[start:end], "states"))
    return tuple(leaf for leaf in leaves if leaf.is_floating_point() and leaf.numel())


def _norm(leaves: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    """The norm of each row, [B]."""
    return torch.stack([leaf.flatten(1).square().sum(1) for leaf in leaves]).sum(0).sqrt()
