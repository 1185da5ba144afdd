"""Runs stages side by side as their dependencies allow, and keeps finished work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from datagen.artifact import Artifact
from datagen.checks import require_whole
from datagen.files import remove_temporaries
from datagen.storage import as_path
from pipelines.engine.stage import SUCCESS, Stage, StageContext, State, Success, execution_plan

log = logging.getLogger(__name__)
CONFIG = Artifact("config.json", dict[str, Any])  # what shaped the result: for readers, the pipeline does not read it


@dataclass(frozen=True)
class Execution:
    """What `execute` did. ran: in the order in which the stages finished; skipped: the stages that were done before."""

    ran: tuple[Stage, ...]
    skipped: tuple[Stage, ...]
    seconds: float


class StageFailed(RuntimeError):
    """The run function of `stage` raised `__cause__`. What it has written is kept."""

    def __init__(self, stage: Stage, root: str | Path, error: BaseException) -> None:
        self.stage = stage
        where, what = stage.output(root), f"{type(error).__name__}: {error}"
        super().__init__(
            f"stage {stage.name} failed in {where}: {what}. Finished work is kept, and the same command continues "
            "from it."
        )


class Observer:
    """`execute` calls these methods, in its caller's thread. Override those that you need."""

    def planned(self, todo: Sequence[Stage], done: Sequence[Stage]) -> None:
        """Before anything starts: the stages that will run, in order, and those that were done before."""

    def started(self, stage: Stage) -> None:
        """A stage is about to run."""

    def finished(self, stage: Stage, seconds: float) -> None:
        """A stage is done."""

    def failed(self, stage: Stage, seconds: float, error: BaseException) -> None:
        """A stage's run function raised an error. Other stages may go on for long."""


def execute(stages: Sequence[Stage], root: str | Path, slots: int, *observers: Observer) -> Execution:
    """Run the unfinished `stages`, each after its inputs, side by side in threads as far as `slots` allow.

    Unfinished inputs are run too (call `require_inputs` to refuse them instead). When a stage or an observer fails, the
    stages that are running finish, no other starts, and StageFailed or the observer's error is raised. Observers are
    called in their order.
    """
    require_whole("slots", slots, 1)
    begin = time.monotonic()
    planned = execution_plan(stages, root)
    todo = [stage for stage, status in planned if status is not State.DONE]
    skipped = tuple(stage for stage, status in planned if status is State.DONE)
    for observer in observers:
        observer.planned(todo, skipped)
    ran = _schedule(todo, as_path(root).absolute(), slots, observers)
    return Execution(tuple(ran), skipped, time.monotonic() - begin)


def _schedule(todo: list[Stage], root: Path, slots: int, observers: Sequence[Observer]) -> list[Stage]:
    """Run the stages; return them in the order in which they finished. Raises the first StageFailed or error of an
    observer."""
    waiting, running = {stage.name: stage for stage in todo}, dict[str, int]()
    results: SimpleQueue[tuple[Stage, float, BaseException | None]] = SimpleQueue()
    ran = list[Stage]()
    failure: Exception | None = None
    while running or (waiting and failure is None):
        for stage in list(waiting.values()):
            need = slots if stage.slots is None else min(stage.slots, slots)
            blocked = any(dependency.name in waiting or dependency.name in running for dependency in stage.inputs)
            if failure is None and not blocked and sum(running.values()) + need <= slots:
                failure = _tell(observers, "started", stage)
                if failure is None:
                    running[stage.name] = need
                    del waiting[stage.name]
                    # daemon: after Ctrl-C the process ends without waiting for the stage
                    threading.Thread(target=_work, args=(stage, root, results), name=stage.name, daemon=True).start()
        if not running:
            break
        stage, seconds, error = results.get()
        del running[stage.name]
        if error is None:
            ran.append(stage)
            told = _tell(observers, "finished", stage, seconds)
            failure = failure or told
        else:
            failed = StageFailed(stage, root, error)
            failed.__cause__ = error
            failure = failure or failed
            _tell(observers, "failed", stage, seconds, error)
    if failure is not None:
        raise failure
    return ran


def _tell(
    observers: Sequence[Observer],
    event: Literal["started", "finished", "failed"],
    stage: Stage,
    *details: float | BaseException,
) -> Exception | None:
    """Call all observers; the first error of one, as of a server that is away."""
    failure: Exception | None = None
    for observer in observers:
        try:
            getattr(observer, event)(stage, *details)
        except Exception as error:  # whatever it is, the trainings that are running are not lost for it
            log.error("%s: no other stage starts, and those that are running finish", error)
            failure = failure or error
    return failure


def _work(stage: Stage, root: Path, results: SimpleQueue[tuple[Stage, float, BaseException | None]]) -> None:
    begin = time.monotonic()
    error: BaseException | None = None
    try:
        _perform(stage, root)
    except BaseException as caught:  # SystemExit too: the waiting thread raises it
        error = caught
    results.put((stage, time.monotonic() - begin, error))


def _perform(stage: Stage, root: Path) -> None:
    begin, output = time.monotonic(), stage.output(root)
    output.mkdir(parents=True, exist_ok=True)
    remove_temporaries(output)
    CONFIG.save(output, {"identity": stage.identity, **stage.resolved()})
    stage.run(StageContext(stage, root))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    SUCCESS.save(output, Success(stage.identity, stage.name, round(time.monotonic() - begin, 3), now))
