"""Stages run once, in order, side by side, and tell what they do."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipelines.engine.scheduler import Observer, StageFailed, execute
from pipelines.engine.stage import (
    Stage,
    StageContext,
    State,
    UnmetDependency,
    execution_plan,
    plan_table,
    require_inputs,
    state,
)
from pipelines.runtime.live import PlainView
from tests.pipelines.stages import Calls, quiet, stage
from tests.waiting import scaled


@given(st.data())
def test_every_stage_runs_once_and_after_its_inputs(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root, calls, made = tmp_path_factory.mktemp("runs"), Calls(), list[Stage]()
    for i in range(data.draw(st.integers(1, 7))):
        inputs = data.draw(st.lists(st.sampled_from(made), max_size=3, unique_by=id)) if made else []
        made.append(calls.stage(f"s{i}", *inputs, slots=data.draw(st.sampled_from([1, 2, 9, None]))))
    wanted = data.draw(st.permutations(made))
    report = execute(wanted, root, data.draw(st.integers(1, 3)))
    assert sorted(calls.names) == sorted(s.name for s in made)
    assert sorted(s.name for s in report.ran) == sorted(calls.names)
    for s in made:
        assert all(calls.names.index(dependency.name) < calls.names.index(s.name) for dependency in s.inputs)
    again = execute(wanted, root, 1)
    assert len(calls.names) == len(made) and again.ran == () and len(again.skipped) == len(made)


def test_only_what_changed_and_what_depends_on_it_runs_again(tmp_path: Path) -> None:
    def experiment(rate: float) -> list[Stage]:
        data = calls.stage("generate")
        n1, n2 = calls.stage("train-n1", data), calls.stage("train-n2", data, config=rate)
        return [data, n1, n2, calls.stage("report", n1, n2)]

    calls = Calls()
    execute(experiment(0.5), tmp_path, 1)
    calls.names.clear()
    execute(experiment(0.25), tmp_path, 1)
    assert calls.names == ["train-n2", "report"]


def test_inputs_of_a_finished_stage_are_not_built_again(tmp_path: Path) -> None:
    calls = Calls()
    data = calls.stage("generate")
    train = calls.stage("train", data)
    execute([train], tmp_path, 1)
    (data.output(tmp_path) / "SUCCESS").unlink()
    execute([train], tmp_path, 1)
    assert calls.names == ["generate", "train"]


def test_an_input_that_is_not_done_is_named_before_any_work(tmp_path: Path) -> None:
    calls = Calls()
    data = calls.stage("generate")
    train = calls.stage("train", data)
    report = calls.stage("report", train)
    with pytest.raises(
        UnmetDependency, match=r"stage train needs stage generate, which is not done \(state: to do"
    ) as caught:
        require_inputs([calls.stage("free"), report, train], tmp_path)
    assert (caught.value.stage, caught.value.missing) == (train, data)
    require_inputs([data], tmp_path)
    execute([data], tmp_path, 1)
    require_inputs([report, train], tmp_path)


def test_two_stages_of_one_name_are_refused_and_one_stage_twice_is_one(tmp_path: Path) -> None:
    calls = Calls()
    one, twin, other = calls.stage("a"), calls.stage("a"), calls.stage("a", config=1)
    execute([one, twin, calls.stage("b", twin)], tmp_path, 1)
    assert calls.names == ["a", "b"]
    for wanted in ([one, other], [calls.stage("b", one), calls.stage("c", other)], [calls.stage("a", one)]):
        with pytest.raises(ValueError, match="name = 'a': two different stages"):
            execute(wanted, tmp_path, 1)
    with pytest.raises(ValueError, match="name = 'a': two different stages"):
        stage("b", one, other)


def test_independent_stages_run_side_by_side(tmp_path: Path) -> None:
    together = threading.Barrier(2)  # one at a time would break it

    def meet(run: StageContext) -> None:
        together.wait(scaled())

    execute([stage("a", run=meet), stage("b", run=meet)], tmp_path, 2)


class Running(Observer):
    """What runs at each start, as the runner tells it: a finish is told after the work, a start before it."""

    def __init__(self) -> None:
        self.now: list[Stage] = []
        self.at_starts: list[list[Stage]] = []

    def started(self, stage: Stage) -> None:
        self.now.append(stage)
        self.at_starts.append(list(self.now))

    def finished(self, stage: Stage, seconds: float) -> None:
        self.now.remove(stage)


@pytest.mark.parametrize("slots", [None, 3, 8])
def test_a_stage_that_needs_all_slots_runs_alone(tmp_path: Path, slots: int | None) -> None:
    running = Running()
    wanted = [stage("a", slots=slots), stage("b"), stage("c"), stage("d", slots=slots), stage("e")]
    execute(wanted, tmp_path, 3, running)
    assert {"a", "d"} <= {s.name for now in running.at_starts if len(now) == 1 for s in now}
    assert not [now for now in running.at_starts if len(now) > 1 and {s.name for s in now} & {"a", "d"}]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(1, 4))
def test_slots_are_never_oversubscribed(tmp_path_factory: pytest.TempPathFactory, needs: list[int], slots: int) -> None:
    running, wanted = Running(), [stage(f"s{i}", slots=need) for i, need in enumerate(needs)]
    execute(wanted, tmp_path_factory.mktemp("runs"), slots, running)
    assert len(running.at_starts) == len(needs)
    for now in running.at_starts:
        assert sum(min(s.slots or slots, slots) for s in now) <= slots


def test_a_failure_lets_running_stages_finish_and_starts_no_other(tmp_path: Path) -> None:
    calls, both, told = Calls(), threading.Barrier(2), threading.Event()

    class Ear(io.StringIO):
        def write(self, text: str) -> int:
            if "bad: failed" in text:
                told.set()
            return super().write(text)

    def fail(run: StageContext) -> None:
        both.wait(scaled())
        raise OSError("disk [full]")

    def outlast(run: StageContext) -> None:
        both.wait(scaled())
        assert told.wait(scaled())
        (run.output / "model").touch()

    bad, good = stage("bad", run=fail), stage("good", run=outlast)
    wanted = [bad, good, calls.stage("after-bad", bad), calls.stage("after-good", good), calls.stage("free")]
    ear = Ear()
    with pytest.raises(StageFailed, match="the same command continues from it") as caught:
        execute(wanted, tmp_path, 2, PlainView(Console(file=ear, width=200)))
    assert "good: done" in ear.getvalue()  # what finishes after a failure is told too
    assert isinstance(caught.value.__cause__, OSError) and caught.value.stage is bad
    assert str(bad.output(tmp_path)) in str(caught.value) and "disk [full]" in str(caught.value)
    assert [state(s, tmp_path) for s in wanted] == [State.BROKEN, State.DONE, State.TODO, State.TODO, State.TODO]
    assert calls.names == []


@pytest.mark.parametrize("event", ["started", "finished"])
def test_an_observer_that_fails_lets_running_stages_finish_and_starts_no_other(tmp_path: Path, event: str) -> None:
    """As where MLflow's server goes away: trainings beside the stage that it was about are not lost."""
    calls, failed, begun = Calls(), threading.Event(), threading.Event()

    class Away(Observer):
        def started(self, stage: Stage) -> None:
            self._fail("started", stage)

        def finished(self, stage: Stage, seconds: float) -> None:
            self._fail("finished", stage)

        def _fail(self, what: str, stage: Stage) -> None:
            if (what, stage.name) == (event, "second"):
                failed.set()
                raise ConnectionError("MLflow does not answer")

    def outlast(run: StageContext) -> None:
        begun.set()
        assert failed.wait(scaled())

    first, second = stage("first", run=outlast), stage("second", run=lambda run: begun.wait(scaled()) and None)
    with pytest.raises(ConnectionError, match="MLflow does not answer"):
        execute([first, second, calls.stage("third", second)], tmp_path, 2, Away())
    after = State.DONE if event == "finished" else State.TODO
    assert (state(first, tmp_path), state(second, tmp_path)) == (State.DONE, after) and calls.names == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_stage_that_exits_fails_and_hangs_nothing(tmp_path: Path, error: BaseException) -> None:
    def leave(run: StageContext) -> None:
        raise error

    with pytest.raises(StageFailed, match="stage s failed") as caught:
        execute([stage("s", run=leave)], tmp_path, 1)
    assert caught.value.__cause__ is error


class Heard(Observer):
    """All that an observer is told, and in which thread."""

    def __init__(self, name: str, heard: list[str]) -> None:
        self.name, self.heard, self.threads = name, heard, set[threading.Thread]()

    def _hear(self, what: str) -> None:
        self.heard.append(f"{self.name} {what}")
        self.threads.add(threading.current_thread())

    def planned(self, todo: Sequence[Stage], done: Sequence[Stage]) -> None:
        self._hear(f"planned {[s.name for s in todo]}, done {[s.name for s in done]}")

    def started(self, stage: Stage) -> None:
        self._hear(f"started {stage.name}")

    def finished(self, stage: Stage, seconds: float) -> None:
        self._hear(f"finished {stage.name}")

    def failed(self, stage: Stage, seconds: float, error: BaseException) -> None:
        self._hear(f"failed {stage.name}")


def test_observers_are_told_in_their_order_in_the_calling_thread(tmp_path: Path) -> None:
    def fail(run: StageContext) -> None:
        raise OSError("no")

    a, heard = stage("a"), list[str]()
    observers = [Heard(name, heard) for name in ("x", "y")]
    execute([a], tmp_path, 1)
    with pytest.raises(StageFailed):
        execute([stage("c", stage("b", a), run=fail)], tmp_path, 2, *observers)
    told = ["planned ['b', 'c'], done ['a']", "started b", "finished b", "started c", "failed c"]
    assert heard == [f"{name} {what}" for what in told for name in ("x", "y")]
    assert {thread for observer in observers for thread in observer.threads} == {threading.current_thread()}


def test_what_a_run_says(tmp_path: Path) -> None:
    def said(*wanted: Stage) -> str:
        console = quiet()
        execute(wanted, tmp_path, 1, PlainView(console))
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    a = stage("a")
    assert "[1/1] a: started" in said(a)
    text = said(a, stage("b", a))
    assert (
        "1 of 2 stages are done already" in text
        and "[1/1] b: started" in text
        and re.search(r"b: done in \d+\.\d s", text)
    )
    assert said(a) == "nothing to do: all 1 stages are done\n"


def test_the_plan_shows_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    calls = Calls()
    data, broken = calls.stage("generate"), calls.stage("broken")
    execute([data], tmp_path, 1)
    broken.output(tmp_path).mkdir(parents=True)
    train = calls.stage("train", data, broken)
    assert execution_plan([train], tmp_path) == [(data, State.DONE), (broken, State.BROKEN), (train, State.TODO)]
    console = quiet()
    console.print(plan_table([train], tmp_path))
    assert isinstance(console.file, io.StringIO)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in console.file.getvalue().splitlines() if "│" in line
    ]
    assert rows == [
        ["generate", data.identity, "done", ""],
        ["broken", broken.identity, "broken", ""],
        ["train", train.identity, "to do", "generate, broken"],
    ]
    assert calls.names == ["generate"]
