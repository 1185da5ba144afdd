"""`ray job submit`, `stop` and submit again of the whole pipeline, on two nodes."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.waiting import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_CLUSTER" not in os.environ, reason="takes minutes: make cluster"),
]

ROOT = Path(__file__).parents[2]
# what a log may hold: Ray's two lines of a job, and the program's own
READABLE = re.compile(
    r"""
    .*Runtime\ env\ is\ setting\ up\.$ | Running\ entrypoint\ for\ job
    | [\w.-]+\ \ step\ \d+/\d+\ \ loss
    | smoke:\ everything\ goes\ to | Ray\ has\ 2\ CPU
    | \[\d/\d\]\ [\w-]+:\ started$ | [\w-]+:\ done\ in | \d\ of\ \d\ stages\ are\ done
    | (results|report|picture|registry|load\ it|MLflow\ UI)\ \  | terminated:\ run\ the\ same\ command\ again
    | \(PlacementGroupCleaner\ pid=\d+\)\ Found\ multiple\ active\ Ray\ instances  # other people's, beside this one
    """,
    re.VERBOSE,
)
TABLE = re.compile(r"^( .*)?$")  # the comparison


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The root of a pipeline that was stopped and submitted again, and what tests.cluster.two_nodes says of it."""
    root = tmp_path_factory.mktemp("jobs")
    program = str(Path(sys.executable).parent)
    # Ray's sockets need a short path, and one that no other Ray writes to
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        environment = {
            **{name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")},
            "PATH": f"{program}:{os.environ['PATH']}",
            "RAY_TMPDIR": temporary,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(),
            "RAY_JOB_STOP_WAIT_TIME_S": "30",
            "SLEEPMODEL_ROOT": str(root),
        }
        command = [sys.executable, "-m", "tests.cluster.two_nodes", str(root)]
        done = run(command, limit=800, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return root, json.loads((root / "result.json").read_text())


def test_each_node_does_part_of_generation_search_and_training(ran: tuple[Path, dict[str, Any]]) -> None:
    _, result = ran
    assert len(result["all"]) == 2
    assert result["nodes"] == dict.fromkeys(("generation", "search", "training"), result["all"])


def test_a_stopped_job_has_saved_and_the_next_one_goes_on(ran: tuple[Path, dict[str, Any]]) -> None:
    root, result = ran
    assert "terminated: run the same command again to continue" in result["stopped"]
    assert "1 of 5 stages are done already" in result["resumed"]
    first = int(re.findall(r"n1-seed20  step (\d+)/60", result["resumed"])[0])
    assert 0 < first - result["at"] <= 5
    assert len(list(root.glob("steps/*/*/SUCCESS"))) == 5 + 1
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs(["1"])
    assert len(runs) == (1 + 5) + (1 + 1 + 2) and {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.parametrize("job", ["stopped", "resumed", "searched"])
def test_the_log_holds_progress_and_nothing_else(ran: tuple[Path, dict[str, Any]], job: str) -> None:
    lines = re.sub(r"\x1b\[[0-9;]*m", "", ran[1][job]).splitlines()
    assert [line for line in lines if not READABLE.match(line) and not TABLE.match(line)] == []
    assert sum("  step " in line for line in lines) > 0


def test_the_commands_of_the_operating_page_show_it(ran: tuple[Path, dict[str, Any]]) -> None:
    _, result = ran
    looks, served = result["looks"], result["served"]
    assert "  step " in looks["ray job logs --follow JOB"] and "SUCCEEDED" in looks["ray job list"]
    assert looks["ray list nodes"].count("ALIVE") == 2 and "2.0 CPU" in looks["ray status"]
    assert "RayTrainWorker" in looks["ray list actors"] and "ensure_shard" in looks["ray summary tasks"]
    assert [re.findall("(?i)<title>(.+?)</title>", page)[0] for page in served.values()] == ["TensorBoard", "MLflow"]
