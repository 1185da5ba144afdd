"""A stage: one piece of work, its identity, its directory, and where it stands under a root."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from rich.table import Table

from datagen.artifact import Artifact
from datagen.canonical import fingerprint_of
from datagen.checks import require_whole
from datagen.storage import as_path
from pipelines.engine.canonical import JSON, canonical

_SLUG = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")


class State(Enum):
    """Where a stage stands under a root. A BROKEN stage has begun and not finished: it is run again in the same
    directory, and may use what it finds there."""

    DONE = "done"
    TODO = "to do"
    BROKEN = "broken"


@dataclass(frozen=True)
class Success:
    """The content of SUCCESS: which stage is finished, how many seconds it ran, and when it ended."""

    identity: str
    name: str
    seconds: float
    finished: str


SUCCESS = Artifact("SUCCESS", Success)


@dataclass(frozen=True, eq=False)
class Stage:
    """One piece of work whose result depends on its config and its inputs alone.

    name: a slug; it names the directory and counts in the identity.
    config: what shapes the result: None, bool, int, finite float, str, and lists, tuples, dicts with str keys and
        dataclasses of these. It is copied, so that a later change to a dict does not reach the stage.
    run: does the work, given a `StageContext`; it is called again in the same directory if an earlier call did not
        finish.
    inputs: the stages whose outputs `run` reads.
    slots: how many of the slots of `execute` it occupies; None: all of them, so that it runs alone. It runs alone
        where there are fewer, too.
    version: raise it when the code makes a different result from the same config.
    identity: 16 hex digits that hash name, version, config (with the dataclasses' names) and the inputs' identities.
        Equal numbers are one number (1 and 1.0), a tuple is a list; the orders of dict keys and of inputs don't count,
        and neither do `run` and `slots`.

    Raises ValueError on a bad field, and on a config that is not JSON, naming the stage and the field.
    """

    name: str
    config: object
    run: Callable[[StageContext], None]
    inputs: tuple[Stage, ...] = ()
    slots: int | None = 1
    version: int = 1
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.name) > 100 or not _SLUG.fullmatch(self.name):
            raise ValueError(f"name = {self.name!r}: must be a slug such as train-n1-seed0, of at most 100 characters")
        if self.slots is not None:
            require_whole(f"stage {self.name}: slots", self.slots, 1)
        require_whole(f"stage {self.name}: version", self.version, 1)
        dependency_order(self.inputs)
        resolved = self.resolved()
        object.__setattr__(self, "config", copy.deepcopy(self.config))
        object.__setattr__(self, "identity", fingerprint_of(resolved))

    def resolved(self) -> dict[str, JSON]:
        """All that shapes the result, as JSON: what the identity hashes and config.json holds."""
        config = canonical(self.config, f"stage {self.name}: config")
        inputs: dict[str, JSON] = {stage.name: stage.identity for stage in self.inputs}
        return {"name": self.name, "version": self.version, "config": config, "inputs": inputs}

    def output(self, root: str | Path) -> Path:
        """The absolute path of its directory under `root`, which may be in an object store (s3://bucket/prefix)."""
        return as_path(root).absolute() / "steps" / self.name / self.identity


@dataclass(frozen=True)
class StageContext:
    """What a stage's run function gets. Its paths are absolute.

    parts: which parts of its output a repair needs, as the stage names them; None: all.
    """

    stage: Stage
    root: Path
    parts: frozenset[str] | None = None

    @property
    def output(self) -> Path:
        return self.stage.output(self.root)

    def path(self, wanted: Stage | str) -> Path:
        """The output directory of a declared input; ValueError for any other stage."""
        for stage in self.stage.inputs:
            if stage.name == wanted or (isinstance(wanted, Stage) and stage.identity == wanted.identity):
                return stage.output(self.root)
        name = wanted.name if isinstance(wanted, Stage) else wanted
        declared = ", ".join(stage.name for stage in self.stage.inputs) or "none"
        raise ValueError(f"stage {self.stage.name}: {name!r} is not one of its inputs ({declared}): add it to them")


class UnmetDependency(ValueError):
    """`stage` cannot run: its input `missing` is not done, and not among the stages to run."""

    def __init__(self, stage: Stage, missing: Stage, root: str | Path) -> None:
        self.stage, self.missing = stage, missing
        status = f"state: {state(missing, root).value}, directory: {missing.output(root)}"
        super().__init__(f"stage {stage.name} needs stage {missing.name}, which is not done ({status}); run it first")


def state(stage: Stage, root: str | Path) -> State:
    """Whether the stage is finished under `root`; anything but a readable SUCCESS of this identity is not."""
    output = stage.output(root)
    try:
        success = SUCCESS.load(output)
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
    ):  # not OSError: a network error says nothing
        return State.BROKEN if output.exists() else State.TODO
    return State.DONE if success.identity == stage.identity else State.BROKEN


def execution_plan(stages: Sequence[Stage], root: str | Path) -> list[tuple[Stage, State]]:
    """`stages`, and the inputs of those that are not done, in the order in which they would run, with their states."""
    status = [(stage, state(stage, root)) for stage in dependency_order(stages)]
    needed = {stage.name for stage in stages}
    for stage, now in reversed(status):
        if stage.name in needed and now is not State.DONE:
            needed.update(dependency.name for dependency in stage.inputs)
    return [(stage, now) for stage, now in status if stage.name in needed]


def require_inputs(stages: Sequence[Stage], root: str | Path) -> None:
    """Raise UnmetDependency where one of `stages` needs a stage that is neither done nor among them."""
    planned = execution_plan(stages, root)
    ready = {stage.name for stage in stages} | {stage.name for stage, now in planned if now is State.DONE}
    for stage, now in planned:
        for dependency in stage.inputs:
            if stage.name in ready and now is not State.DONE and dependency.name not in ready:
                raise UnmetDependency(stage, dependency, root)


def plan_table(stages: Sequence[Stage], root: str | Path) -> Table:
    """The execution plan as a table, for --dry-run."""
    table = Table(title="outputs in <root>/steps/<stage>/<identity>")
    for column in ("stage", "identity", "state"):
        table.add_column(column, no_wrap=True)
    table.add_column("inputs")
    for stage, status in execution_plan(stages, root):
        table.add_row(
            stage.name, stage.identity, status.value, ", ".join(dependency.name for dependency in stage.inputs)
        )
    return table


def dependency_order(stages: Iterable[Stage]) -> list[Stage]:
    """`stages` and all they depend on, inputs first, each once. ValueError where two different stages share a name."""
    found: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        known = found.get(stage.name)
        if known is None:
            for dependency in stage.inputs:
                visit(dependency)
            known = found.setdefault(stage.name, stage)
        if known.identity != stage.identity:
            both = f"{known.identity} and {stage.identity}"
            raise ValueError(f"name = {stage.name!r}: two different stages ({both}) have this name; give each its own")

    for stage in stages:
        visit(stage)
    return list(found.values())


def script_of(stage: Stage) -> str:
    """The script that runs a stage: the first word of its name."""
    return stage.name.partition("-")[0]
