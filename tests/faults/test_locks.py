"""Two pipelines on one root: the second is refused with the name of the first, and a dead first does not block."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.engine.locks import StageLocked, hold_locks
from pipelines.engine.scheduler import execute
from pipelines.engine.stage import Stage, StageContext
from tests.hostile.imports import GSM_LINE
from tests.waiting import Background, run

ROOT = Path(__file__).parents[2]

HOLDER = """
import sys
from datagen.storage import as_path
from pipelines.engine.locks import hold_locks
from pipelines.engine.stage import Stage

stage = Stage("train", 1, lambda run: None, (Stage("generate", 1, lambda run: None),))
with hold_locks([stage], as_path(sys.argv[1]), "smoke"):
    print("held", flush=True)
    sys.stdin.read()
"""


def nothing(run: StageContext) -> None:
    """A stage that makes no file."""


DATA = Stage("generate", 1, nothing)
TRAIN = Stage("train", 1, nothing, (DATA,))
OTHER = Stage("train-other", 1, nothing)


@contextmanager
def holding(program: str, *paths: Path) -> Iterator[int]:
    """Another process, which has its locks; its number."""
    with Background([sys.executable, "-c", program, *map(str, paths)], stdin=subprocess.PIPE, cwd=ROOT) as process:
        process.until_it_prints("held")
        yield process.pid


@pytest.mark.parametrize("where", ["tmp_path", "store"])
def test_the_second_names_the_first_until_that_dies(where: str, request: pytest.FixtureRequest) -> None:
    root: Path = request.getfixturevalue(where)
    with holding(HOLDER, root) as first:  # at the end it is killed, and has no chance to give its locks back
        said = rf"stage generate: process {first} on {re.escape(socket.gethostname())} \(preset smoke, since 20.*"
        for stages in ([TRAIN], [DATA], [OTHER, TRAIN]):
            with pytest.raises(StageLocked, match=said), hold_locks(stages, root, "demo"):
                pytest.fail("two pipelines work on one stage")
    with hold_locks([TRAIN], root, "demo"):
        pass


def test_pipelines_that_share_no_unfinished_stage_run_side_by_side(tmp_path: Path) -> None:
    execute([DATA], tmp_path, 1)
    with hold_locks([TRAIN], tmp_path, "demo"), hold_locks([Stage("train-b", 2, nothing, (DATA,))], tmp_path, "smoke"):
        pass


IMPORTER = """
import sys
from datagen.gsm.importing import Import
from pipelines import cli

def wait(self):
    print("held", flush=True)
    sys.stdin.read()

Import.write = wait
root = sys.argv[1]
sys.argv = ["generate.py", "--task", "gsm", "--import", f"{sys.argv[2]}/problems.jsonl", "--root", root]
cli.main("generate", None)
"""


@pytest.mark.parametrize("where", ["tmp_path", "store"])
def test_two_imports_of_one_file(
    where: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root: Path = request.getfixturevalue(where)
    (tmp_path / "problems.jsonl").write_text(json.dumps(GSM_LINE))

    def imports(split: str) -> object:
        arguments = ["--task", "gsm", "--import", f"{tmp_path}/problems.jsonl", "--split", split, "--root", str(root)]
        monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main("generate", None)
        return ended.value.code

    with holding(IMPORTER, root, tmp_path) as first:
        assert imports("test") == 2
        said = capsys.readouterr().err
        assert f"import of problems.jsonl: process {first} on {socket.gethostname()} (import problems.jsonl, s" in said
        assert imports("train") == 0  # another dataset
    assert imports("test") == 0
    assert [len(list(root.glob(f"imported/gsm/*/{split}/*.parquet"))) for split in ("test", "train")] == [1, 1]


def test_the_command_refuses_and_writes_nothing_and_needs_no_ray(tmp_path: Path) -> None:
    command = [sys.executable, "pipelines/full.py", "smoke", "--root", str(tmp_path)]
    program = """
import sys
from pathlib import Path
from pipelines import cli
from pipelines.engine.locks import hold_locks
from pipelines.config.presets import PRESETS

root = Path(sys.argv[1])
_, stages = cli._plan(PRESETS["smoke"], root)
with hold_locks(stages, root, "smoke"):
    print("held", flush=True)
    sys.stdin.read()
"""
    with holding(program, tmp_path) as first:
        before = sorted(tmp_path.rglob("*"))
        environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
        second = run(command, cwd=ROOT, env=environment)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: stage generate: process {first} on ") and "--root" in second.stderr
    assert sorted(tmp_path.rglob("*")) == before
