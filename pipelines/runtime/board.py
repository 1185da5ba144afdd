"""Where the stages of a running pipeline and their trainings stand, from what the scheduler and the trainings tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pipelines.runtime.cost_estimate import StageTrainings
from sleepmodel.training.progress import Progress, ProgressEvent

NO_TRAININGS = StageTrainings(0, 0.0)


class Standing(Enum):
    """Where a stage stands in this run; stopped: this process ended before the stage did."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class TrainingState:
    """A training or trial that has been heard of. first_at, first_step: at its first event, or its first after Ray
    started it again; at: when its latest event came."""

    latest: ProgressEvent
    at: float
    first_at: float
    first_step: int
    report: Progress | None = None

    def told(self, event: ProgressEvent, now: float) -> None:
        if event.step < self.latest.step and not event.ended:
            self.first_at, self.first_step = now, event.step
        self.latest, self.at, self.report = event, now, event.report or self.report

    @property
    def ended(self) -> bool:
        return self.latest.ended or self.latest.step == self.latest.steps

    @property
    def trained(self) -> float:
        """The share of its steps that were done while this process watched."""
        return (self.latest.step - self.first_step) / self.latest.steps

    @property
    def left(self) -> float:
        """The share of its steps that are still to do."""
        return 0.0 if self.ended else 1 - self.latest.step / self.latest.steps

    def seconds_left(self, now: float) -> float | None:
        """At its own pace; None where that is not known."""
        if self.ended:
            return 0.0
        if self.report:
            pace = self.report.seconds / self.report.step
        elif self.latest.step > self.first_step:
            pace = (self.at - self.first_at) / (self.latest.step - self.first_step)
        else:
            return None
        return max(0.0, pace * (self.latest.steps - self.latest.step) - (now - self.at))


@dataclass
class StageState:
    """A stage and, by id, its trainings. begin: when it started; seconds: how long it ran, once it has ended;
    expected: its trainings as the experiment has them."""

    name: str
    standing: Standing = Standing.WAITING
    expected: StageTrainings = NO_TRAININGS
    begin: float | None = None
    seconds: float | None = None
    trainings: dict[str, TrainingState] = field(default_factory=dict)

    def elapsed(self, now: float) -> float | None:
        return self.seconds if self.seconds is not None or self.begin is None else now - self.begin

    @property
    def start_up(self) -> float | None:
        """Seconds from its start until its first training was heard of."""
        if self.begin is None or not self.trainings:
            return None
        return min(training.first_at for training in self.trainings.values()) - self.begin

    @property
    def to_train(self) -> list[float]:
        """The FLOPs that each of its trainings, heard of or not, has yet to do; none where it is not going on."""
        if self.standing not in (Standing.WAITING, Standing.RUNNING):
            return []
        shares = [training.left for training in self.trainings.values()]
        shares += [1.0] * (self.expected.count - len(shares))
        return [share * self.expected.flops for share in shares if share and self.expected.flops]


class Board:
    """All stages of a run, in order. trainings: by stage, of those that train; slots: trainings side by side."""

    def __init__(
        self, trainings: Mapping[str, StageTrainings], slots: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stages: dict[str, StageState] = {}
        self.clock, self.begin = clock, clock()
        self._expected, self._slots = trainings, slots

    def planned(self, todo: Sequence[str], done: Sequence[str]) -> None:
        self.stages = {name: StageState(name, Standing.DONE) for name in done}
        self.stages |= {name: StageState(name, expected=self._expected.get(name, NO_TRAININGS)) for name in todo}

    def started(self, stage: str) -> None:
        self.stages[stage].standing, self.stages[stage].begin = Standing.RUNNING, self.clock()

    def ended(self, stage: str, standing: Standing, seconds: float) -> None:
        self.stages[stage].standing, self.stages[stage].seconds = standing, seconds

    def told(self, stage: str, event: ProgressEvent) -> None:
        """An event of a training of a stage; those of an earlier run's stages are passed over."""
        now = self.clock()
        if stage not in self.stages:
            return
        trainings = self.stages[stage].trainings
        if event.id not in trainings:
            trainings[event.id] = TrainingState(event, now, now, event.step)
        trainings[event.id].told(event, now)

    def stopped(self) -> None:
        """This process ends: what still runs is stopped."""
        for state in self.stages.values():
            if state.standing is Standing.RUNNING:
                state.standing, state.seconds = Standing.STOPPED, state.elapsed(self.clock())

    def training_seconds_left(self) -> float | None:
        """About how long the trainings still take: their FLOPs at the rate measured so far, and each one's start-up,
        shared by those that fit side by side. None where no rate is known yet."""
        waiting = [state for state in self.stages.values() if state.to_train]
        if not waiting:
            return 0.0
        training = [state for state in self.stages.values() if state.expected.count]
        heard = [(state.expected.flops, each) for state in training for each in state.trainings.values()]
        flops = sum(cost * each.trained for cost, each in heard)
        seconds = sum(each.at - each.first_at for _, each in heard if each.trained)
        if not flops or not seconds:
            return None
        known = [state.start_up for state in training if state.start_up is not None]
        start_up = sum(known) / len(known)
        total = sum(sum(state.to_train) for state in waiting) * seconds / flops
        for state in waiting:
            if not state.trainings:
                total += max(0.0, start_up - (state.elapsed(self.clock()) or 0.0))
        return total / min(self._slots, sum(len(state.to_train) for state in waiting))
