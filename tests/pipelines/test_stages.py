from __future__ import annotations

import io
import json
import math
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import assume, given
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
from tests.waiting import Background, run, scaled

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
KEYS = st.text(max_size=4).filter(lambda key: key != "$type")
CONFIGS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


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


# identity


@given(st.dictionaries(KEYS, CONFIGS, min_size=2, max_size=5))
def test_the_order_of_keys_and_of_inputs_does_not_shape_a_result(config: dict[str, object]) -> None:
    shuffled = dict(reversed(config.items()))
    a, b = stage("a"), stage("b")
    assert stage("s", a, b, config=config).identity == stage("s", b, a, config=shuffled).identity


@given(CONFIGS, st.integers(1, 64) | st.none())
def test_resources_and_the_function_do_not_shape_a_result(config: object, slots: int | None) -> None:
    other = Stage("s", config, run=lambda run: None, slots=slots)
    assert other.identity == stage("s", config=config).identity


@given(CONFIGS, CONFIGS)
def test_different_configs_are_different_stages(one: object, other: object) -> None:
    assume(_plain(one) != _plain(other))
    assert stage("s", config=one).identity != stage("s", config=other).identity


def _plain(value: object) -> str:
    """A slow second opinion on equality: equal numbers are one, booleans are not numbers."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_plain(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_plain, value)) + "]"
    return repr(int(value)) if isinstance(value, float) and value == math.floor(value) else repr(value)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_is_its_integer(number: int) -> None:
    assert stage("s", config=[float(number)]).identity == stage("s", config=(number,)).identity


def test_a_boolean_is_not_a_number() -> None:
    assert stage("s", config=True).identity != stage("s", config=1).identity


@pytest.mark.parametrize(
    "other",
    [Outer(Inner(rate=0.25)), Outer(Inner(sizes=(2, 1))), Outer(loop=(0, 1)), Twin(), {"inner": Inner(), "loop": None}],
)
def test_every_field_and_the_type_of_a_dataclass_count(other: object) -> None:
    assert stage("s", config=other).identity != stage("s", config=Outer()).identity


def test_the_name_and_the_version_count() -> None:
    identities = {stage("s").identity, stage("t").identity, Stage("s", None, nothing, version=2).identity}
    assert len(identities) == 3


@given(CONFIGS, CONFIGS)
def test_a_change_propagates_to_all_that_depend_on_it(one: object, other: object) -> None:
    def last(config: object) -> str:
        return stage("c", stage("b", stage("a", config=config))).identity

    assert (last(one) == last(other)) == (_plain(one) == _plain(other))


def test_the_identity_is_the_same_in_every_version_of_this_code() -> None:
    """Finished work under users' roots is found by it; a change here throws all of it away."""
    assert stage("train", stage("generate", config={"rows": 8}), config=Outer()).identity == "330d2dc87c205b21"


def test_a_config_that_is_changed_later_does_not_reach_the_stage() -> None:
    config = {"seeds": [0]}
    made = stage("s", config=config)
    config["seeds"].append(1)
    assert made.config == {"seeds": [0]}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"a": [0, {1}]}, r"config\.a\[1\] = \{1\}"),
        (Outer(inner=Path("x")), r"config\.inner = PosixPath"),  # type: ignore[arg-type]
        ({"a": math.nan}, r"config\.a = nan"),
        ({"a": math.inf}, r"config\.a = inf"),
        ({"a": {1: 2}}, r"config\.a = \{1: 2\}"),
        ({"$type": "Outer"}, r"config = "),
        (Outer, r"config = "),
        (b"x", r"config = b'x'"),
    ],
)
def test_a_config_that_is_not_json_names_the_stage_and_the_field(config: object, field: str) -> None:
    with pytest.raises(ValueError, match=rf"stage train-n1: {field}"):
        stage("train-n1", config=config)


@pytest.mark.parametrize("name", ["", "Train", "a b", "../a", "a/b", "-a", "a-", ".", "a\n", "a" * 101])
def test_a_name_is_a_slug(name: str) -> None:
    with pytest.raises(ValueError, match=r"name = .*slug"):
        stage(name)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_slots_and_version_are_positive_integers(number: int) -> None:
    with pytest.raises(ValueError, match=r"stage s: slots = "):
        Stage("s", None, nothing, slots=number)
    with pytest.raises(ValueError, match=r"stage s: version = "):
        Stage("s", None, nothing, version=number)
    with pytest.raises(ValueError, match="slots = "):
        execute([stage("s")], "unused", slots=number)


# directories


def test_a_stage_reads_its_inputs_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, other = stage("generate"), stage("other")
    run = StageContext(stage("train", data), Path("runs"))
    expected = tmp_path / "runs" / "steps" / "generate" / data.identity
    assert run.path(data) == run.path("generate") == expected
    assert run.output == tmp_path / "runs" / "steps" / "train" / run.stage.identity
    for wrong in (other, "other", stage("generate", config=1)):
        with pytest.raises(ValueError, match=r"stage train: .* not one of its inputs \(generate\)"):
            run.path(wrong)


def test_a_finished_stage_says_what_it_was(tmp_path: Path) -> None:
    data = stage("generate")
    train = stage("train", data, config=Outer(), run=lambda run: (run.output / "model").touch())
    execute([train], tmp_path, 1)
    output = train.output(tmp_path)
    assert sorted(path.name for path in output.iterdir()) == ["SUCCESS", "config.json", "model"]
    success = json.loads((output / "SUCCESS").read_text())
    assert (success["identity"], success["name"]) == (train.identity, "train")
    assert success["seconds"] >= 0 and "T" in success["finished"]
    config = json.loads((output / "config.json").read_text())
    assert config["inputs"] == {"generate": data.identity}
    assert config["config"]["inner"]["sizes"] == [1, 2]


def test_an_error_of_the_storage_does_not_make_a_finished_stage_undone(tmp_path: Path) -> None:
    stage = Stage("work", {}, lambda run: None)
    (stage.output(tmp_path) / "SUCCESS").mkdir(parents=True)  # cannot be read, whoever runs this
    with pytest.raises(IsADirectoryError):
        execute([stage], tmp_path, 1)


def test_success_is_written_after_the_work(tmp_path: Path) -> None:
    seen: list[bool] = []
    made = stage("s", run=lambda run: seen.extend((run.output / name).exists() for name in ("config.json", "SUCCESS")))
    execute([made], tmp_path, 1)
    assert seen == [True, False]


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'"x"', b"\xff", b"{}", b'{"identity": "0123456789abcdef"}']
)
def test_a_directory_without_its_success_is_broken(tmp_path: Path, content: bytes | None) -> None:
    made = stage("s", run=lambda run: (run.output / "model").touch())
    assert state(made, tmp_path) is State.TODO
    made.output(tmp_path).mkdir(parents=True)
    if content is not None:
        (made.output(tmp_path) / "SUCCESS").write_bytes(content)
    assert state(made, tmp_path) is State.BROKEN
    execute([made], tmp_path, 1)
    assert state(made, tmp_path) is State.DONE and (made.output(tmp_path) / "model").exists()


# execute


class Calls:
    """Stages that note their names as they run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def stage(self, name: str, *inputs: Stage, config: object = None, slots: int | None = 1) -> Stage:
        return Stage(name, config, lambda run: self.names.append(run.stage.name), inputs, slots)


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
    with pytest.raises(StageFailed, match="Run the same command again") as caught:
        execute(wanted, tmp_path, 2, PlainView(Console(file=Ear(), width=200)))
    assert isinstance(caught.value.__cause__, OSError) and caught.value.stage is bad
    assert str(bad.output(tmp_path)) in str(caught.value) and "disk [full]" in str(caught.value)
    assert [state(s, tmp_path) for s in wanted] == [State.BROKEN, State.DONE, State.TODO, State.TODO, State.TODO]
    assert calls.names == []


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

    def failed(self, stage: Stage, seconds: float) -> None:
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


# processes that die

PROGRAM = """
import os, sys, threading
from pathlib import Path
from rich.console import Console
from pipelines.engine.scheduler import execute
from pipelines.engine.stage import Stage, StageContext
from pipelines.runtime.live import PlainView

def train(run: StageContext) -> None:
    checkpoint = run.output / "checkpoint"
    if checkpoint.exists():
        (run.output / "model").write_text("resumed from " + checkpoint.read_text())
        return
    checkpoint.write_text("10")
    if sys.argv[2] == "die":
        os._exit(9)
    print("ready", flush=True)
    threading.Event().wait()

data = Stage("generate", None, lambda run: (run.output / "rows").touch())
execute([Stage("train", None, train, (data,))], sys.argv[1], 1, PlainView(Console()))
"""


def test_a_killed_stage_is_broken_and_resumes_with_its_files(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "die"]
    assert run(command).returncode == 9
    (output,) = (tmp_path / "steps" / "train").iterdir()
    assert sorted(path.name for path in output.iterdir()) == ["checkpoint", "config.json"]
    assert not list(output.glob("SUCCESS"))
    done = run(command)
    assert done.returncode == 0 and "1 of 2 stages are done already" in done.stdout
    assert (output / "model").read_text() == "resumed from 10" and (output / "SUCCESS").exists()


def test_an_interrupt_ends_the_run_while_a_stage_works(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), "wait"]

    def heed_interrupts() -> None:  # which a shell's background jobs, and what they start, do not
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with Background(command, preexec_fn=heed_interrupts) as process:
        process.until_it_prints("ready")
        process.send_signal(signal.SIGINT)
        process.until_it_ends()  # the stage itself would wait for ever
        assert "KeyboardInterrupt" in process.output()
    assert run(command).returncode == 0
