"""The command line as a user types it, up to the point where work would start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def start(script: str, *arguments: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script of pipelines/ in a process that may start no Ray: its address leads nowhere."""
    return run(
        [sys.executable, str(ROOT / "pipelines" / f"{script}.py"), *arguments, "--root", str(root)],
        cwd=root.parent,
        env={**os.environ, "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": "", **environment},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--set", "train.steps=abc"], "train.steps=abc: must be an integer"),
        (["demo", "--set", "model.sleep_passes=0"], "model.sleep_passes = 0"),
        (["nosuch"], "invalid choice: 'nosuch'"),
        (["rule110-fig2b"], "days on these CPUs"),
    ],
)
def test_bad_input_is_one_error_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = start("full", *arguments, root=tmp_path / "runs", RAY_ADDRESS="local")
    assert result.returncode == 2
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path) -> None:
    result = start("full", "smoke", "--dry-run", root=tmp_path / "runs", RAY_ADDRESS="127.0.0.1:1")
    assert result.returncode == 0, result.stderr
    for stage in ("generate", "train-n1-seed20", "tune", "train-winner-seed21", "evaluate", "report", "register"):
        assert f"│ {stage} " in result.stdout
    assert result.stdout.count("to do") == 11
    assert not (tmp_path / "runs").exists()


SCRIPTS = ("full", "generate", "train", "tune", "evaluate", "report", "register")
DRY_RUNS = """
import sys
from contextlib import suppress
from pipelines import cli

for script in sys.argv[1].split():
    sys.argv[:] = [f"{script}.py", *sys.argv[-7:]]
    with suppress(SystemExit):
        cli.main(script, None)
"""


def test_a_dry_run_of_any_script_leaves_no_trace(tmp_path: Path) -> None:
    """Neither under the root nor in the working directory, where the user's own task is, nor in the home."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "examples" / "my_tasks.py", tmp_path / "work")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["smoke", "--dry-run", "--root", "../root", "--set", "task=my_tasks:Parity", "train.precision=auto"]
    outside = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "PYTHONDONTWRITEBYTECODE"):
        outside.pop(name, None)
    command = [sys.executable, "-c", DRY_RUNS, " ".join(SCRIPTS), *arguments]
    result = run(command, cwd=tmp_path / "work", env=outside)
    assert result.stdout.count("dry run: nothing was started") == len(SCRIPTS), result.stdout + result.stderr
    assert result.stdout.count("train.precision=auto is ") == len(SCRIPTS)
    assert result.stdout.count("a run measures again") == len(SCRIPTS)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_root_in_rays_temporary_copy_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_ray_pkg_0123").mkdir()
    result = start("full", "smoke", root=tmp_path / "_ray_pkg_0123" / "runs")
    assert result.returncode == 2
    assert "set SLEEPMODEL_ROOT before `ray start`" in result.stderr
