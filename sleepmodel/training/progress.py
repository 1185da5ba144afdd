"""Where a training stands, and how whoever watches it is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

TICK_SECONDS = 1.0  # between two events that tell no more than the step


@dataclass(frozen=True)
class Progress:
    """Where a run stands. tokens and seconds count from the start of the run, over all workers and restarts.

    tokens_per_second: of the steps since the last report; loss: their mean, nats per answer token;
    grad_norm: of the last step, before clipping; rate: factor on the peak learning rates;
    accuracy: share of validation rows that are wholly right; flops: of all steps, three times the forward's;
    level: that the validation rows are of, the deepest that the steps drew from; None without a curriculum;
    skipped: batches passed over so far (TrainConfig.skips), which have no part in loss and grad_norm: nan where there
    was no other since the last report.
    """

    step: int
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    loss: float
    grad_norm: float
    rate: float
    accuracy: float
    flops: int
    level: int | None = None
    skipped: int = 0

    @property
    def eta_seconds(self) -> float:
        """Seconds left at this pace."""
        return self.seconds / self.step * (self.steps - self.step)

    def line(self) -> str:
        level = "" if self.level is None else f"level {self.level}  "
        return (
            f"step {self.step}/{self.steps}  {level}loss {self.loss:.3f}  accuracy {self.accuracy:.3f}  "
            f"grad {self.grad_norm:.2f}  {self.tokens_per_second:,.0f} tokens/s  {self.eta_seconds:.0f} s left"
            + (f"  {self.skipped} batches skipped" if self.skipped else "")
        )


@dataclass(frozen=True)
class ProgressEvent:
    """What a watcher is told of one training or trial, or of other work that has steps.

    id: no other training that is watched at the same place has it; name: for people; step: how many of `steps` are
    done; report: after a validation; ended: nothing more will be told; message: why it ended, where that is not plain.
    """

    id: str
    name: str
    step: int
    steps: int
    report: Progress | None = None
    ended: bool = False
    message: str = ""

    def line(self) -> str | None:
        """The event for a log; None where it is worth no line."""
        text = self.report.line() if self.report else self.message
        return f"{self.name}  {text}" if text else None


Watcher = Callable[[ProgressEvent], None]


def print_progress(event: ProgressEvent) -> None:
    """The watcher of a training that nobody else watches: a line a report."""
    if line := event.line():
        print(line, flush=True)


class ProgressTicker:
    """Tells a watcher of each report of one training and, in between, of its step, once every TICK_SECONDS."""

    def __init__(self, watch: Watcher, id: str, name: str, steps: int) -> None:
        self._watch, self._id, self._name, self._steps = watch, id, name, steps
        self._step, self._told = 0, -TICK_SECONDS

    def step(self, step: int) -> None:
        self._step = step
        if time.monotonic() - self._told >= TICK_SECONDS:
            self._tell()

    def report(self, at: Progress) -> None:
        self._step = at.step
        self._tell(report=at)

    def end(self, message: str) -> None:
        """It ends before its last step."""
        self._tell(ended=True, message=message)

    def _tell(self, report: Progress | None = None, ended: bool = False, message: str = "") -> None:
        self._told = time.monotonic()
        self._watch(ProgressEvent(self._id, self._name, self._step, self._steps, report, ended, message))
