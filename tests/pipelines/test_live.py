"""What a user sees of a running pipeline: the live table from plain events, and the lines of a log."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.config.presets import PRESETS
from pipelines.engine.stage import SUCCESS, Stage, StageContext, Success
from pipelines.plan import plan
from pipelines.runtime.board import Board, Standing
from pipelines.runtime.cost_estimate import StageTrainings, done_share, stage_trainings, training_cost
from pipelines.runtime.live import LiveView, PlainView, render
from pipelines.runtime.services import Services
from sleepmodel.training.progress import Progress, ProgressEvent

STAGES = ("generate", "train-n1-seed20", "tune", "evaluate", "report")
TRAININGS = {"train-n1-seed20": StageTrainings(1, 1e9), "tune": StageTrainings(4, 2e9)}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def progress(step: int, steps: int = 400) -> Progress:
    return Progress(step, steps, 100 * step, 0.5 * step, 12_345.0, 0.6871, 1.0, 1.0, 0.5943, 10**6 * step)


def event(name: str, step: int, steps: int = 400, id: str = "") -> ProgressEvent:
    return ProgressEvent(id or name, name, step, steps, progress(step, steps))


def shown(board: Board, width: int = 120, height: int | None = None) -> list[str]:
    """The lines of the table as a terminal has them."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    console.print(render(board, width, height))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def line_of(name: str, lines: Sequence[str]) -> str:
    (found,) = (line for line in lines if line.split()[:1] == [name])
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Board:
    """A dataset is done, a training is at step 100 of 400 after 20 s of start-up and 50 s of steps."""
    board = Board(TRAININGS, slots=2, clock=clock)
    board.planned(STAGES, ())
    board.started("generate")
    clock.now += 3
    board.ended("generate", Standing.DONE, 3.0)
    board.started("train-n1-seed20")
    clock.now += 20
    board.progressed("train-n1-seed20", ProgressEvent("n1-seed20", "n1-seed20", 0, 400))
    clock.now += 50
    board.progressed("train-n1-seed20", event("n1-seed20", 100))
    return board


def test_a_dataset_that_is_verified_before_the_plan_has_a_row_until_then(clock: Clock) -> None:
    board = Board(TRAININGS, slots=2, clock=clock)
    verified = ProgressEvent("train", "generate-train", 30, 120)
    board.progressed("generate", verified)
    clock.now += 61
    lines = shown(board)
    assert line_of("generate", lines).split() == ["generate", "running", "1:01"]
    assert "30/120" in line_of("train", lines)
    board.planned(["train-n1-seed20"], [])
    board.progressed("generate", verified)  # one that was under way
    assert [line.split()[0] for line in shown(board) if line] == ["stage", "train-n1-seed20", "0"]


def test_a_line_a_stage_and_a_bar_a_training(board: Board) -> None:
    lines = shown(board)
    assert [line.split()[0] for line in lines if line] == ["stage", *STAGES, "1"]
    assert line_of("generate", lines).split() == ["generate", "done", "0:03"]
    training = line_of("train-n1-seed20", lines)
    assert training.count("━") == 24 // 4
    # 0.5 s a step by its report: 300 steps take 2:30
    assert re.sub("[━╺╸]+", "", training).split()[1:] == [
        "running", "1:10", "100/400", "0.687", "0.594", "12,345", "2:30",
    ]  # fmt: skip
    assert line_of("evaluate", lines).split() == ["evaluate", "waiting"]


def test_a_trial_has_a_line_under_its_search_until_it_is_stopped(board: Board, clock: Clock) -> None:
    board.started("tune")
    for id, step in (("a", 50), ("b", 400)):  # two trials of one name
        board.progressed("tune", event("tune-N2-eta0.51", step, id=id))
    board.progressed("tune", ProgressEvent("c", "tune-N4-eta1.00", 10, 400))
    lines = shown(board)
    trials = [line.split()[:2] for line in lines if line.startswith("  N")]
    assert trials == [["N2-eta0.51", "running"], ["N2-eta0.51", "done"], ["N4-eta1.00", "running"]]
    board.progressed("tune", ProgressEvent("a", "tune-N2-eta0.51", 50, 400, ended=True))
    board.progressed("tune", ProgressEvent("a", "tune-N2-eta0.51", 51, 400))  # the step that it was at
    assert "stopped" in next(line for line in shown(board) if line.startswith("  N2"))


def test_the_time_left_of_the_whole_is_by_the_flops_that_are_left(board: Board) -> None:
    """0.25e9 FLOPs took 50 s. Left are 0.75e9 and four trials of 2e9, two at once, and one start-up of 20 s."""
    left = (8.75e9 / (0.25e9 / 50) + 20) / 2
    assert board.training_seconds_left() == pytest.approx(left)
    minutes, seconds = divmod(round(left), 60)
    assert shown(board)[-1] == f"1 of 5 stages done, 1:13 so far, about {minutes}:{seconds:02} of training left"
    board.progressed("train-n1-seed20", event("n1-seed20", 400))
    board.ended("train-n1-seed20", Standing.DONE, 200.0)
    board.ended("tune", Standing.DONE, 200.0)
    board.started("evaluate")
    assert board.training_seconds_left() == 0 and "left" not in shown(board)[-1]


def test_no_time_left_is_told_before_one_is_known(clock: Clock) -> None:
    board = Board(TRAININGS, 2, clock)
    board.planned(STAGES, ())
    board.started("train-n1-seed20")
    assert board.training_seconds_left() is None and "known after some steps" in shown(board)[-1]


def test_what_a_run_went_on_from_is_not_taken_for_its_pace(clock: Clock) -> None:
    """A training that begins at step 300, and one whose worker died and that is at an earlier step again."""
    board = Board({"train-n1-seed20": StageTrainings(1, 400.0)}, 1, clock)
    board.planned(["train-n1-seed20"], ())
    board.started("train-n1-seed20")
    board.progressed("train-n1-seed20", ProgressEvent("n1-seed20", "n1-seed20", 300, 400))
    clock.now += 10
    board.progressed("train-n1-seed20", ProgressEvent("n1-seed20", "n1-seed20", 310, 400))
    assert board.training_seconds_left() == pytest.approx(90)
    board.progressed("train-n1-seed20", ProgressEvent("n1-seed20", "n1-seed20", 300, 400))
    clock.now += 20
    board.progressed("train-n1-seed20", ProgressEvent("n1-seed20", "n1-seed20", 310, 400))
    assert board.training_seconds_left() == pytest.approx(180)


@pytest.mark.parametrize("width", [80, 120])
def test_many_stages_fit_into_a_small_terminal_and_are_all_there_at_the_end(clock: Clock, width: int) -> None:
    names = [f"train-n{n}-seed{seed}" for n in range(8) for seed in (20, 21)]
    board = Board({}, 4, clock)
    board.planned([*names, "tune", "evaluate", "report", "register"], ["generate"])
    for name in names[:6]:
        board.started(name)
        board.progressed(name, event(name.removeprefix("train-"), 400))
        board.ended(name, Standing.DONE, 1.0)
    board.started(names[6])
    board.progressed(names[6], event(names[6].removeprefix("train-"), 8))
    board.started("tune")
    for i in range(9):
        board.progressed("tune", ProgressEvent(str(i), "tune-N1-eta1.00", 8, 400, ended=i < 8))
    small = shown(board, width, height=12)
    assert len(small) <= 12 and all(len(line) <= width for line in small)
    assert "8/400" in line_of(names[6], small) and "7 stages" in "".join(small) and "8 trials" in "".join(small)
    whole = shown(board, width)
    assert [line_of(name, whole).split()[0] for name in names] == names  # none is cut off
    assert sum(line.startswith("  N1-eta1.00") for line in whole) == 9


def nothing(run: StageContext) -> None:
    pass


def ended(view: LiveView, error: BaseException | None) -> None:
    """A run of which one stage is done and one runs as it is left."""
    data, train = Stage("generate", None, nothing), Stage("train-n1-seed20", None, nothing)
    with view:
        view.planned([data, train], [])
        view.started(data)
        view.finished(data, 1.0)
        view.started(train)
        view.progressed(train.name, event("n1-seed20", 40))
        print("a worker's warning")
        if error:
            raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), None], ids=["interrupted", "left"])
def test_the_terminal_is_as_before_and_the_table_stands_once(error: BaseException | None) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, height=30, color_system=None)
    view = LiveView(console, Board({}, 1))
    if error:
        with pytest.raises(KeyboardInterrupt):
            ended(view, error)
    else:
        ended(view, None)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")  # the cursor is back
    assert "a worker's warning" in printed
    # what was drawn before is erased, line by line, before it is drawn again
    frames = re.split(r"(?:\x1b\[1A|\r)?(?:\r?\x1b\[2K(?:\x1b\[1A)?)+", printed)
    assert frames[-1].count("train-n1-seed20") == 1 and "stopped" in frames[-1] and "40/400" in frames[-1]


def test_a_log_has_a_line_a_report_and_no_escapes() -> None:
    console = Console(file=io.StringIO(), width=120)
    view = PlainView(console)
    train = Stage("train-n1-seed20", None, nothing)
    view.planned([train], [])
    view.started(train)
    view.progressed(train.name, ProgressEvent("n1-seed20", "n1-seed20", 10, 400))
    view.progressed(train.name, event("n1-seed20", 20))
    view.progressed(
        "tune", ProgressEvent("a", "tune-N1-eta1.00", 7, 400, ended=True, message="step 7: loss nan [of rows]")
    )
    view.failed(train, 2.0, RuntimeError("of a bad disk"))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "[1/1] train-n1-seed20: started",
        f"n1-seed20  {progress(20).line()}",
        "tune-N1-eta1.00  step 7: loss nan [of rows]",
        "train-n1-seed20: failed after 2.0 s: RuntimeError: of a bad disk",
    ]


@pytest.mark.parametrize("preset", ["smoke", "demo", "depo-fig3-mini", "rule110-fig2b-mini"])
def test_every_training_of_a_preset_is_reckoned_with(preset: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    experiment = PRESETS[preset]
    stages = plan(experiment, Services(experiment, tmp_path_factory.mktemp("runs")))
    found = stage_trainings(experiment, stages)
    assert found.keys() == {stage.name for stage in stages if stage.name.startswith(("train-", "tune"))}
    assert found.get("tune", StageTrainings(0, 0)).count == (experiment.search.trials if experiment.search else 0)
    total = sum(each.count * each.flops for each in found.values())
    whole = training_cost(experiment).flops
    # the second of a search's two winners, at N = 1, counts here as one of the largest N
    assert whole <= total <= 2 * whole if experiment.search else total == pytest.approx(whole)


def test_what_is_done_counts_by_its_flops(tmp_path: Path) -> None:
    experiment = PRESETS["depo-fig3-mini"]
    stages = plan(experiment, Services(experiment, tmp_path))
    assert done_share(experiment, stages, tmp_path) == 0
    (n4,) = (stage for stage in stages if stage.name == "train-n4-seed30")
    for stage in (stages[0], n4):  # a dataset counts nothing
        stage.output(tmp_path).mkdir(parents=True)
        SUCCESS.save(stage.output(tmp_path), Success(stage.identity, stage.name, 1.0, "2026-11-27T12:00:00+00:00"))
    flops = {name: each.flops for name, each in stage_trainings(experiment, stages).items()}
    share = done_share(experiment, stages, tmp_path)
    assert share == pytest.approx(flops[n4.name] / sum(flops.values())) and share > 1 / len(flops)
