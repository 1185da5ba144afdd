"""Where a training stands."""

from __future__ import annotations

from dataclasses import dataclass


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
