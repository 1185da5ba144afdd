"""The state of a running pipeline, its stages and their trainings, kept up to date by events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from pipelines.runtime.cost_estimate import StageTrainings
from sleepmodel.training.progress import Progress, ProgressEvent

NO_TRAININGS = StageTrainings(0, 0.0)


class Standing(Enum):
    """The state of a stage in this run; STOPPED: this process ended before the stage did."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class TrainingState:
    """A training or trial that has sent an event. at: the time of its latest event; first_at, first_step: of its first
    event, or the first after Ray restarted it."""

    latest: ProgressEvent
    at: float
    first_at: float
    first_step: int
    report: Progress | None = None

    def update(self, event: ProgressEvent, now: float) -> None:
        if self.latest.ended and not event.ended:  # a trial that is stopped early may take another step meanwhile
            return
        if event.step < self.latest.step and not event.ended:
            self.first_at, self.first_step = now, event.step
        self.latest, self.at, self.report = event, now, event.report or self.report

    @property
    def ended(self) -> bool:
        return self.latest.ended or self.latest.step == self.latest.steps

    @property
    def trained(self) -> float:
        """The share of its steps that were done since its first event."""
        return (self.latest.step - self.first_step) / max(1, self.latest.steps)

    @property
    def left(self) -> float:
        """The share of its steps that remain."""
        return 0.0 if self.ended else 1 - self.latest.step / self.latest.steps

    def seconds_left(self, now: float) -> float | None:
        """Estimated from its own speed; None while that is unknown."""
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
    """A stage. begin: when it started; seconds: how long it ran, once it has ended; expected: its trainings as planned;
    trainings: by id, those that have sent an event."""

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
        """Seconds from its start to the first event of a training."""
        if self.begin is None or not self.trainings:
            return None
        return min(training.first_at for training in self.trainings.values()) - self.begin

    @property
    def remaining_flops(self) -> list[float]:
        """The FLOPs that remain in each of its unfinished trainings; none once the stage has ended."""
        if self.standing not in (Standing.WAITING, Standing.RUNNING):
            return []
        shares = [training.left for training in self.trainings.values()]
        shares += [1.0] * (self.expected.count - len(shares))
        return [share * self.expected.flops for share in shares if share and self.expected.flops]


class Board:
    """All stages of a run, in order. trainings: by stage, those planned; slots: how many trainings run side by side."""

    def __init__(
        self, trainings: Mapping[str, StageTrainings], slots: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stages: dict[str, StageState] = {}
        self.clock, self.begin = clock, clock()
        self._expected, self._slots, self._planned = trainings, slots, False

    def planned(self, todo: Sequence[str], done: Sequence[str]) -> None:
        self._planned = True
        self.stages = {name: StageState(name, Standing.DONE) for name in done}
        self.stages |= {name: StageState(name, expected=self._expected.get(name, NO_TRAININGS)) for name in todo}

    def started(self, stage: str) -> None:
        self.stages[stage].standing, self.stages[stage].begin = Standing.RUNNING, self.clock()

    def ended(self, stage: str, standing: Standing, seconds: float) -> None:
        self.stages[stage].standing, self.stages[stage].seconds = standing, seconds

    def progressed(self, stage: str, event: ProgressEvent) -> None:
        """A training of a stage has sent an event. A dataset that is verified before there is a plan gets a row until
        then. Later events of stages that are not on the board are ignored."""
        now = self.clock()
        if stage not in self.stages:
            if self._planned:
                return
            self.stages[stage] = StageState(stage, Standing.RUNNING, begin=now)
        trainings = self.stages[stage].trainings
        if event.id not in trainings:
            trainings[event.id] = TrainingState(event, now, now, event.step)
        trainings[event.id].update(event, now)

    def stopped(self) -> None:
        """This process ends: the stages that still run are stopped."""
        for state in self.stages.values():
            if state.standing is Standing.RUNNING:
                state.standing, state.seconds = Standing.STOPPED, state.elapsed(self.clock())

    def training_seconds_left(self) -> float | None:
        """An estimate for all remaining training: its FLOPs at the measured rate, plus start-up times, divided by the
        number of trainings that run side by side. None until a rate has been measured."""
        waiting = [state for state in self.stages.values() if state.remaining_flops]
        if not waiting:
            return 0.0
        training = [state for state in self.stages.values() if state.expected.count]
        begun = [(state.expected.flops, each) for state in training for each in state.trainings.values()]
        flops = sum(cost * each.trained for cost, each in begun)
        seconds = sum(each.at - each.first_at for _, each in begun if each.trained)
        if not flops or not seconds:
            return None
        known = [state.start_up for state in training if state.start_up is not None]
        start_up = sum(known) / len(known)
        total = sum(sum(state.remaining_flops) for state in waiting) * seconds / flops
        for state in waiting:
            if not state.trainings:
                total += max(0.0, start_up - (state.elapsed(self.clock()) or 0.0))
        return total / min(self._slots, sum(len(state.remaining_flops) for state in waiting))
