"""Stages that do little."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from pipelines.engine.stage import Stage, StageContext


def nothing(run: StageContext) -> None:
    """A stage that makes no file."""


def stage(
    name: str,
    *inputs: Stage,
    config: object = None,
    run: Callable[[StageContext], None] = nothing,
    slots: int | None = 1,
) -> Stage:
    return Stage(name, config, run, inputs, slots)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    loop: tuple[int, int] | None = None


@dataclass(frozen=True)
class Twin:
    inner: Inner = Inner()
    loop: tuple[int, int] | None = None


class Calls:
    """Stages that note their names as they run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, *inputs: Stage, config: object = None, slots: int | None = 1) -> Stage:
        return Stage(name, config, lambda run: self.names.append(run.stage.name), inputs, slots)
