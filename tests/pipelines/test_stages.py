"""The directory of a stage: finished, broken, or resumed after its process has died."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from pipelines.engine.scheduler import execute
from pipelines.engine.stage import Stage, StageContext, State, state
from tests.pipelines.stages import Outer, stage
from tests.waiting import Background, run


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
