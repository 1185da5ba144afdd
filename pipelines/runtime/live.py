"""Views of a running pipeline: a live table on a terminal, a line for each event in a log."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipelines.engine.scheduler import Observer
from pipelines.engine.stage import Stage
from pipelines.runtime.board import Board, StageState, Standing, TrainingState
from sleepmodel.tracking.redact import redacted
from sleepmodel.training.progress import ProgressEvent

COLUMNS = ("stage", "state", "time", "", "step", "loss", "accuracy", "tokens/s", "left")
NARROW = 100  # terminals with fewer columns have no room for tokens/s and a long bar
STYLES = {
    Standing.WAITING: "dim",
    Standing.RUNNING: "bold cyan",
    Standing.DONE: "green",
    Standing.FAILED: "bold red",
    Standing.STOPPED: "yellow",
}
FRAMES_PER_SECOND = 4
AROUND = 4  # lines beside the rows: head, empty line, footer, cursor

Row = tuple[RenderableType, ...]


class RunView(Observer):
    """Shows a run while its context is open. `progressed` may be called from any thread."""

    def progressed(self, stage: str, event: ProgressEvent) -> None:
        """A training of a stage has sent an event."""

    def __enter__(self) -> RunView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """The run has ended, by itself or by an error."""


class PlainView(RunView):
    """Prints a line when a stage starts or ends, and for each report of a training."""

    def __init__(self, console: Console) -> None:
        self._console, self._total, self._started = console, 0, 0

    def planned(self, todo: Sequence[Stage], done: Sequence[Stage]) -> None:
        self._total = len(todo)
        if not todo:
            self._line(f"nothing to do: all {len(done)} stages are done")
        elif done:
            self._line(f"{len(done)} of {len(todo) + len(done)} stages are done already")

    def started(self, stage: Stage) -> None:
        self._started += 1
        self._line(f"[{self._started}/{self._total}] {stage.name}: started")

    def finished(self, stage: Stage, seconds: float) -> None:
        self._line(f"{stage.name}: done in {seconds:.1f} s", "green")

    def failed(self, stage: Stage, seconds: float, error: BaseException) -> None:
        self._line(_failure(stage, seconds, error), "red")

    def progressed(self, stage: str, event: ProgressEvent) -> None:
        if line := event.line():
            self._line(line)

    def _line(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class LiveView(RunView):
    """Redraws one table in place. At the end it prints the whole table."""

    def __init__(self, console: Console, board: Board) -> None:
        self._console, self._board, self._lock = console, board, threading.Lock()
        self._ended = False
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=FRAMES_PER_SECOND, auto_refresh=True
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._board.stopped()
            self._ended = True
        self._live.stop()

    def planned(self, todo: Sequence[Stage], done: Sequence[Stage]) -> None:
        with self._lock:
            self._board.planned([stage.name for stage in todo], [stage.name for stage in done])

    def started(self, stage: Stage) -> None:
        with self._lock:
            self._board.started(stage.name)

    def finished(self, stage: Stage, seconds: float) -> None:
        with self._lock:
            self._board.ended(stage.name, Standing.DONE, seconds)

    def failed(self, stage: Stage, seconds: float, error: BaseException) -> None:
        with self._lock:
            self._board.ended(stage.name, Standing.FAILED, seconds)
        self._console.print(_failure(stage, seconds, error), style="red", highlight=False, markup=False, soft_wrap=True)

    def progressed(self, stage: str, event: ProgressEvent) -> None:
        with self._lock:
            self._board.progressed(stage, event)
        if event.message:
            self._console.print(event.line(), style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            return render(self._board, self._console.width, None if self._ended else self._console.height)


def _failure(stage: Stage, seconds: float, error: BaseException) -> str:
    # the end of the run has the whole text, and Ray's begins with a traceback
    last = str(error).strip().splitlines()[-1:]
    return redacted(": ".join([f"{stage.name}: failed after {seconds:.1f} s", type(error).__name__, *last]))


def render(board: Board, width: int, height: int | None) -> RenderableType:
    """The table as it is now. Where it has more lines than the terminal, stages and trials that are not running share
    lines. height: of the terminal; None: no limit."""
    shown = [column for column in COLUMNS if width >= NARROW or column != "tokens/s"]
    table = Table(box=None, padding=(0, 2 if width >= NARROW else 1, 0, 0), header_style="dim")
    for column in shown:
        right = column not in ("stage", "state", "")
        table.add_column(column, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    bar = 24 if width >= NARROW else 8
    for row in _rows(board, bar, None if height is None else max(1, height - AROUND)):
        table.add_row(*(cell for cell, column in zip(row, COLUMNS, strict=False) if column in shown))
    return Group(table, _footer(board))


def _rows(board: Board, bar: int, room: int | None) -> list[Row]:
    stages, now = list(board.stages.values()), board.clock()
    rows = {state.name: list(_rows_of(state, bar, now)) for state in stages}

    def too_many() -> bool:
        return room is not None and sum(map(len, rows.values())) > room

    for state in stages:
        if too_many() and state.standing is Standing.DONE:
            del rows[state.name][1:]  # its trials
    for standing in (Standing.DONE, Standing.WAITING):
        alike = [state.name for state in stages if state.standing is standing]
        if too_many() and len(alike) > 1:
            rows[alike[0]] = [(Text(f"{len(alike)} stages", STYLES[standing]), _state(standing))]
            rows |= {name: [] for name in alike[1:]}
    for state in stages:
        ended = [training for training in state.trainings.values() if training.ended]
        if too_many() and len(rows[state.name]) > 1 and ended:
            going_on = [training for training in state.trainings.values() if not training.ended]
            rows[state.name][1:] = [
                (Text(f"  {len(ended)} trials", "dim"), Text("ended", "dim")),
                *(_row_of_trial(state, training, bar, now) for training in going_on),
            ]
    return [row for of_stage in rows.values() for row in of_stage]


def _rows_of(state: StageState, bar: int, now: float) -> Iterator[Row]:
    """A stage's row, which shows its training if it has just one, and otherwise a row for each of its trials."""
    trainings = list(state.trainings.values())
    own = trainings[0] if len(trainings) == 1 and state.name.endswith(trainings[0].latest.name) else None
    style = STYLES[state.standing] if state.standing in (Standing.WAITING, Standing.FAILED) else ""
    head = (Text(state.name, style), _state(state.standing), Text(_clock(state.elapsed(now))))
    yield head + (_cells(own, bar, now, state.standing is Standing.RUNNING) if own else ())
    # the splits of a finished dataset say no more than its stage
    trials = [training for training in trainings if training.report or state.standing is not Standing.DONE]
    for training in [] if own else trials:
        yield _row_of_trial(state, training, bar, now)


def _row_of_trial(state: StageState, training: TrainingState, bar: int, now: float) -> Row:
    latest, running = training.latest, state.standing is Standing.RUNNING
    if latest.step == latest.steps:
        word = Text("done", STYLES[Standing.DONE])
    elif training.ended or not running:
        word = Text("stopped", STYLES[Standing.STOPPED])
    else:
        word = Text("running", STYLES[Standing.RUNNING])
    name = latest.name.removeprefix(f"{state.name}-")
    return (Text(f"  {name}"), word, Text(), *_cells(training, bar, now, running))


def _cells(training: TrainingState, bar: int, now: float, running: bool) -> Row:
    """Bar, step, loss, accuracy, tokens a second, time left."""
    latest, report = training.latest, training.report
    left = training.seconds_left(now) if running and not training.ended else None
    numbers = (
        (f"{report.loss:.3f}", f"{report.accuracy:.3f}", f"{report.tokens_per_second:,.0f}") if report else ("",) * 3
    )
    return (
        ProgressBar(total=latest.steps, completed=latest.step, width=bar),
        Text(f"{latest.step}/{latest.steps}"),
        *map(Text, numbers),
        Text(_clock(left)),
    )


def _state(standing: Standing) -> Text:
    return Text(standing.value, STYLES[standing])


def _footer(board: Board) -> Text:
    done = sum(state.standing is Standing.DONE for state in board.stages.values())
    words = f"\n{done} of {len(board.stages)} stages done, {_clock(board.clock() - board.begin)} so far"
    going_on = any(state.standing is Standing.RUNNING for state in board.stages.values())
    if going_on and board.training_seconds_left() != 0:
        left = board.training_seconds_left()
        words += ", time left: known after some steps" if left is None else f", about {_clock(left)} of training left"
    return Text(words, "bold")


def _clock(seconds: float | None) -> str:
    """1:02:03, or 2:03; nothing for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
