"""The progress of a training, and the events that report it to a callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

TICK_SECONDS = 1.0  # between two events without a report


@dataclass(frozen=True)
class Progress:
    """A report of a run. tokens and seconds count from the start of the run, over all workers and restarts.

    tokens_per_second: since the last report; loss: mean since the last report, nats per answer token;
    grad_norm: of the last step, before clipping; rate: factor on the peak learning rates;
    accuracy: share of validation rows of which all answers are right; flops: of all steps, as `training_flops` counts;
    level: of the validation rows, the deepest level that was open; None without a curriculum;
    trace_loss: as loss, nats per label of the traces; None without TrainConfig.trace_weight;
    skipped: batches skipped so far (TrainConfig.skips). They do not count in loss and grad_norm, which are nan if all
    batches since the last report were skipped.
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
    trace_loss: float | None = None

    @property
    def eta_seconds(self) -> float:
        """Estimated seconds left."""
        return self.seconds / self.step * (self.steps - self.step) if self.step else 0.0

    def line(self) -> str:
        level = "" if self.level is None else f"level {self.level}  "
        traces = "" if self.trace_loss is None else f"traces {self.trace_loss:.3f}  "
        return (
            f"step {self.step}/{self.steps}  {level}loss {self.loss:.3f}  {traces}accuracy {self.accuracy:.3f}  "
            f"grad {self.grad_norm:.2f}  {self.tokens_per_second:,.0f} tokens/s  {self.eta_seconds:.0f} s left"
            + (f"  {self.skipped} batches skipped" if self.skipped else "")
        )


@dataclass(frozen=True)
class ProgressEvent:
    """An event of a training, a trial, or other work that has steps.

    id: unique among all work whose events go to the same mailbox; name: for people; step: how many of `steps` are done;
    report: the progress after a validation; ended: this is the last event; message: why it ended early.
    """

    id: str
    name: str
    step: int
    steps: int
    report: Progress | None = None
    ended: bool = False
    message: str = ""

    def line(self) -> str | None:
        """The event as a line of a log; None for an event that only counts steps."""
        text = self.report.line() if self.report else self.message
        return f"{self.name}  {text}" if text else None


ProgressCallback = Callable[[ProgressEvent], None]


def print_progress(event: ProgressEvent) -> None:
    """The default callback: prints a line for each report."""
    if line := event.line():
        print(line, flush=True)


class ProgressTicker:
    """Calls back with each report of one training and, between reports, with its step every TICK_SECONDS."""

    def __init__(self, callback: ProgressCallback, id: str, name: str, steps: int) -> None:
        self._callback, self._id, self._name, self._steps = callback, id, name, steps
        self._step, self._last_event = 0, -TICK_SECONDS

    def step(self, step: int) -> None:
        self._step = step
        if time.monotonic() - self._last_event >= TICK_SECONDS:
            self._send()

    def report(self, at: Progress) -> None:
        self._step = at.step
        self._send(report=at)

    def _send(self, report: Progress | None = None) -> None:
        self._last_event = time.monotonic()
        self._callback(ProgressEvent(self._id, self._name, self._step, self._steps, report))
