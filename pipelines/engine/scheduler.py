"""Runs stages side by side as their dependencies allow, and keeps finished work."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console

from datagen.files import replacing
from datagen.storage import as_path
from pipelines.engine.canonical import JSON
from pipelines.engine.stage import Stage, StageContext, State, execution_plan


@dataclass(frozen=True)
class Execution:
    """What `execute` did: stages that ran, in the order they finished, those that were done before, and the seconds."""

    ran: tuple[Stage, ...]
    skipped: tuple[Stage, ...]
    seconds: float


class StageFailed(RuntimeError):
    """A stage's run function raised (`__cause__`); `stage` is the stage. What it has written is kept."""

    def __init__(self, stage: Stage, root: str | Path, error: BaseException) -> None:
        self.stage = stage
        where, what = stage.output(root), f"{type(error).__name__}: {error}"
        super().__init__(f"stage {stage.name} failed in {where}: {what}. Run the same command again to continue.")


def execute(
    stages: Sequence[Stage],
    root: str | Path,
    slots: int,
    on_start: Callable[[Stage], None] | None = None,
    on_finish: Callable[[Stage, float], None] | None = None,
    *,
    console: Console | None = None,
) -> Execution:
    """Run what is not done of `stages`, each after its inputs, side by side in threads while their slots fit.

    Inputs that are not done are run too (`require_inputs` refuses them instead). When a stage fails, those that
    run finish, no other starts, and StageFailed is raised. The callbacks are called in the calling thread.
    """
    if type(slots) is not int or slots < 1:
        raise ValueError(f"slots = {slots!r}: must be an integer of at least 1")
    begin = time.monotonic()
    planned = execution_plan(stages, root)
    todo = [stage for stage, status in planned if status is not State.DONE]
    skipped = tuple(stage for stage, status in planned if status is State.DONE)
    say = _Progress(console or Console(), len(todo), on_start, on_finish)
    if not todo:
        say.line(f"nothing to do: all {len(planned)} stages are done")
        return Execution((), skipped, time.monotonic() - begin)
    if skipped:
        say.line(f"{len(skipped)} of {len(planned)} stages are done already")
    _schedule(todo, as_path(root).absolute(), slots, say)
    return Execution(tuple(say.ran), skipped, time.monotonic() - begin)


@dataclass
class _Progress:
    """A line and a callback as a stage starts, and as it ends."""

    console: Console
    total: int
    on_start: Callable[[Stage], None] | None
    on_finish: Callable[[Stage, float], None] | None
    ran: list[Stage] = field(default_factory=list)
    _started: int = 0

    def line(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, soft_wrap=True)

    def started(self, stage: Stage) -> None:
        self._started += 1
        self.line(f"[{self._started}/{self.total}] {stage.name}: started")
        if self.on_start:
            self.on_start(stage)

    def finished(self, stage: Stage, seconds: float) -> None:
        self.ran.append(stage)
        self.line(f"{stage.name}: done in {seconds:.1f} s", "green")
        if self.on_finish:
            self.on_finish(stage, seconds)

    def failed(self, stage: Stage, seconds: float) -> None:
        self.line(f"{stage.name}: failed after {seconds:.1f} s", "red")


def _schedule(todo: list[Stage], root: Path, slots: int, say: _Progress) -> None:
    waiting, running = {stage.name: stage for stage in todo}, dict[str, int]()
    results: SimpleQueue[tuple[Stage, float, BaseException | None]] = SimpleQueue()
    failure: StageFailed | None = None
    while running or (waiting and failure is None):
        for stage in list(waiting.values()) if failure is None else []:
            need = slots if stage.slots is None else min(stage.slots, slots)
            blocked = any(dependency.name in waiting or dependency.name in running for dependency in stage.inputs)
            if not blocked and sum(running.values()) + need <= slots:
                running[stage.name] = need
                del waiting[stage.name]
                say.started(stage)
                # daemon: an interrupt in the calling thread ends the process without waiting for the stage
                threading.Thread(target=_work, args=(stage, root, results), name=stage.name, daemon=True).start()
        stage, seconds, error = results.get()
        del running[stage.name]
        if error is None:
            say.finished(stage, seconds)
        else:
            say.failed(stage, seconds)
            failed = StageFailed(stage, root, error)
            failed.__cause__ = error
            failure = failure or failed
    if failure is not None:
        raise failure


def _work(stage: Stage, root: Path, results: SimpleQueue[tuple[Stage, float, BaseException | None]]) -> None:
    begin = time.monotonic()
    error: BaseException | None = None
    try:
        _perform(stage, root)
    except BaseException as caught:  # all of it, SystemExit too, belongs to the thread that waits for this result
        error = caught
    results.put((stage, time.monotonic() - begin, error))


def _perform(stage: Stage, root: Path) -> None:
    begin, output = time.monotonic(), stage.output(root)
    output.mkdir(parents=True, exist_ok=True)
    _write_json(output / "config.json", {"identity": stage.identity, **stage.resolved()})
    stage.run(StageContext(stage, root))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    seconds = round(time.monotonic() - begin, 3)
    _write_json(
        output / "SUCCESS", {"identity": stage.identity, "name": stage.name, "seconds": seconds, "finished": now}
    )


def _write_json(path: Path, value: JSON) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
