"""A step, its identity, its directory, and a runner that keeps finished work."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from queue import SimpleQueue

from rich.console import Console
from rich.table import Table

from datagen.files import replacing
from datagen.storage import as_path
from pipelines.canonical import JSON, canonical, fingerprint

_SLUG = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")


class State(Enum):
    """Where a step stands under a root. A run starts a BROKEN step again in its directory, with what lies there."""

    DONE = "done"
    TODO = "to do"
    BROKEN = "broken"


@dataclass(frozen=True, eq=False)
class Step:
    """One piece of work whose result depends on its config and its inputs alone.

    name: a slug; it names the directory and counts in the identity.
    config: what shapes the result: None, bool, int, finite float, str, and lists, tuples, dicts with str keys and
        dataclasses of these. It is copied, so that a later change to a dict does not reach the step.
    run: does the work, given a `Run`; called again in the same directory when an earlier call did not finish.
    inputs: the steps whose outputs `run` reads.
    slots: how many of the runner's slots it occupies; None is all of them, so that it runs alone. A runner with fewer
        runs it alone.
    version: raise it when the code makes something else from the same config.
    identity: 16 hex digits that hash name, version, config (with the dataclasses' names) and the inputs' identities.
        Equal numbers are one number (1 and 1.0), a tuple is a list; the orders of dict keys and of inputs don't count,
        and neither do `run` and `slots`.

    Raises ValueError on a bad field, and on a config that is not JSON, naming the step and the field.
    """

    name: str
    config: object
    run: Callable[[Run], None]
    inputs: tuple[Step, ...] = ()
    slots: int | None = 1
    version: int = 1
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.name) > 100 or not _SLUG.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r}: must be a slug such as train-n1-seed0, of at most 100 characters")
        if self.slots is not None and (type(self.slots) is not int or self.slots < 1):
            raise ValueError(f"slots = {self.slots!r}: must be None or an integer of at least 1 (step {self.name})")
        if type(self.version) is not int or self.version < 1:
            raise ValueError(f"version = {self.version!r}: must be an integer of at least 1 (step {self.name})")
        dependency_order(self.inputs)
        resolved = self.resolved()
        object.__setattr__(self, "config", copy.deepcopy(self.config))
        object.__setattr__(self, "identity", fingerprint(resolved))

    def resolved(self) -> dict[str, JSON]:
        """All that shapes the result, as JSON: what the identity hashes and config.json holds."""
        config = canonical(self.config, f"step {self.name}: config")
        inputs: dict[str, JSON] = {step.name: step.identity for step in self.inputs}
        return {"name": self.name, "version": self.version, "config": config, "inputs": inputs}

    def output(self, root: str | Path) -> Path:
        """The absolute path of its directory under `root`, which may be in a store (s3://bucket/prefix)."""
        return as_path(root).absolute() / "steps" / self.name / self.identity


@dataclass(frozen=True)
class Run:
    """What a step's run function gets: the step, the root, and where its output goes and its inputs lie (absolute)."""

    step: Step
    root: Path

    @property
    def output(self) -> Path:
        return self.step.output(self.root)

    def path(self, wanted: Step | str) -> Path:
        """The output directory of a declared input; ValueError for any other step."""
        for step in self.step.inputs:
            if step.name == wanted or (isinstance(wanted, Step) and step.identity == wanted.identity):
                return step.output(self.root)
        name = wanted.name if isinstance(wanted, Step) else wanted
        declared = ", ".join(step.name for step in self.step.inputs) or "none"
        raise ValueError(f"step {self.step.name}: {name!r} is not one of its inputs ({declared}): declare it there")


@dataclass(frozen=True)
class Report:
    """What `execute` did: steps that ran, in the order they finished, those that were done before, and the seconds."""

    ran: tuple[Step, ...]
    skipped: tuple[Step, ...]
    seconds: float


class StepFailed(RuntimeError):
    """A step's run function raised (`__cause__`); `step` is the step. What it has written is kept."""

    def __init__(self, step: Step, root: str | Path, error: BaseException) -> None:
        self.step = step
        where, what = step.output(root), f"{type(error).__name__}: {error}"
        super().__init__(f"step {step.name} failed in {where}: {what}. Run the same command again to continue.")


class UnmetInput(ValueError):
    """`step` cannot run, as its input `missing` is not done and is not to be built."""

    def __init__(self, step: Step, missing: Step, root: str | Path) -> None:
        self.step, self.missing = step, missing
        stands = f"{state(missing, root).value} in {missing.output(root)}"
        super().__init__(f"step {step.name} needs the output of step {missing.name}, which is {stands}: run it first")


def state(step: Step, root: str | Path) -> State:
    """Whether the step is finished under `root`; anything but a readable SUCCESS of this identity is not."""
    output = step.output(root)
    try:
        success = json.loads((output / "SUCCESS").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a store's other errors do not make it undone
        return State.BROKEN if output.exists() else State.TODO
    finished = isinstance(success, dict) and success.get("identity") == step.identity
    return State.DONE if finished else State.BROKEN


def execute(
    steps: Sequence[Step],
    root: str | Path,
    slots: int,
    on_start: Callable[[Step], None] | None = None,
    on_finish: Callable[[Step, float], None] | None = None,
    *,
    console: Console | None = None,
) -> Report:
    """Run what is not done of `steps`, each after its inputs, side by side in threads while their slots fit.

    Inputs that are not done are run too (`require_inputs` refuses them instead). When a step fails, those that
    run finish, no other starts, and StepFailed is raised. The callbacks are called in the calling thread.
    """
    if type(slots) is not int or slots < 1:
        raise ValueError(f"slots = {slots!r}: must be an integer of at least 1")
    begin = time.monotonic()
    planned = plan(steps, root)
    todo = [step for step, stands in planned if stands is not State.DONE]
    skipped = tuple(step for step, stands in planned if stands is State.DONE)
    say = _Progress(console or Console(), len(todo), on_start, on_finish)
    if not todo:
        say.line(f"nothing to do: all {len(planned)} steps are done")
        return Report((), skipped, time.monotonic() - begin)
    if skipped:
        say.line(f"{len(skipped)} of {len(planned)} steps are done already")
    _schedule(todo, as_path(root).absolute(), slots, say)
    return Report(tuple(say.ran), skipped, time.monotonic() - begin)


def plan(steps: Sequence[Step], root: str | Path) -> list[tuple[Step, State]]:
    """The wanted steps and the inputs of those which are not done, in the order they would run, with their states."""
    stands = [(step, state(step, root)) for step in dependency_order(steps)]
    needed = {step.name for step in steps}
    for step, at in reversed(stands):
        if step.name in needed and at is not State.DONE:
            needed.update(put.name for put in step.inputs)
    return [(step, at) for step, at in stands if step.name in needed]


def require_inputs(steps: Sequence[Step], root: str | Path) -> None:
    """Raise UnmetInput where one of `steps` needs a step that is neither done nor among them."""
    planned = plan(steps, root)
    ready = {step.name for step in steps} | {step.name for step, at in planned if at is State.DONE}
    for step, at in planned:
        for put in step.inputs:
            if step.name in ready and at is not State.DONE and put.name not in ready:
                raise UnmetInput(step, put, root)


def plan_table(steps: Sequence[Step], root: str | Path) -> Table:
    """What `execute` would look at, in the order it would run: a table for --dry-run."""
    table = Table(title="outputs in <root>/steps/<step>/<identity>")
    for column in ("step", "identity", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("inputs")
    for step, stands in plan(steps, root):
        table.add_row(step.name, step.identity, stands.value, ", ".join(put.name for put in step.inputs))
    return table


def dependency_order(steps: Iterable[Step]) -> list[Step]:
    """`steps` and all they depend on, inputs first, each once. ValueError where two different steps share a name."""
    found: dict[str, Step] = {}

    def visit(step: Step) -> None:
        known = found.get(step.name)
        if known is None:
            for put in step.inputs:
                visit(put)
            known = found.setdefault(step.name, step)
        if known.identity != step.identity:
            both = f"{known.identity} and {step.identity}"
            raise ValueError(f"name = {step.name!r}: two different steps ({both}) have it; give each its own name")

    for step in steps:
        visit(step)
    return list(found.values())


@dataclass
class _Progress:
    """A line and a callback as a step starts, and as it ends."""

    console: Console
    total: int
    on_start: Callable[[Step], None] | None
    on_finish: Callable[[Step, float], None] | None
    ran: list[Step] = field(default_factory=list)
    _started: int = 0

    def line(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, highlight=False, soft_wrap=True)

    def started(self, step: Step) -> None:
        self._started += 1
        self.line(f"[{self._started}/{self.total}] {step.name}: started")
        if self.on_start:
            self.on_start(step)

    def finished(self, step: Step, seconds: float) -> None:
        self.ran.append(step)
        self.line(f"{step.name}: done in {seconds:.1f} s", "green")
        if self.on_finish:
            self.on_finish(step, seconds)

    def failed(self, step: Step, seconds: float) -> None:
        self.line(f"{step.name}: failed after {seconds:.1f} s", "red")


def _schedule(todo: list[Step], root: Path, slots: int, say: _Progress) -> None:
    waiting, running = {step.name: step for step in todo}, dict[str, int]()
    results: SimpleQueue[tuple[Step, float, BaseException | None]] = SimpleQueue()
    failure: StepFailed | None = None
    while running or (waiting and failure is None):
        for step in list(waiting.values()) if failure is None else []:
            need = slots if step.slots is None else min(step.slots, slots)
            blocked = any(put.name in waiting or put.name in running for put in step.inputs)
            if not blocked and sum(running.values()) + need <= slots:
                running[step.name] = need
                del waiting[step.name]
                say.started(step)
                # daemon: an interrupt in the calling thread ends the process without waiting for the step
                threading.Thread(target=_work, args=(step, root, results), name=step.name, daemon=True).start()
        step, seconds, error = results.get()
        del running[step.name]
        if error is None:
            say.finished(step, seconds)
        else:
            say.failed(step, seconds)
            failed = StepFailed(step, root, error)
            failed.__cause__ = error
            failure = failure or failed
    if failure is not None:
        raise failure


def _work(step: Step, root: Path, results: SimpleQueue[tuple[Step, float, BaseException | None]]) -> None:
    begin = time.monotonic()
    error: BaseException | None = None
    try:
        _perform(step, root)
    except BaseException as caught:  # all of it, SystemExit too, belongs to the thread that waits for this result
        error = caught
    results.put((step, time.monotonic() - begin, error))


def _perform(step: Step, root: Path) -> None:
    begin, output = time.monotonic(), step.output(root)
    output.mkdir(parents=True, exist_ok=True)
    _write_json(output / "config.json", {"identity": step.identity, **step.resolved()})
    step.run(Run(step, root))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    seconds = round(time.monotonic() - begin, 3)
    _write_json(output / "SUCCESS", {"identity": step.identity, "name": step.name, "seconds": seconds, "finished": now})


def _write_json(path: Path, value: JSON) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
