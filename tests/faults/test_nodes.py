"""Three nodes, of which one is killed while it makes shards and another while it runs a trial."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.faults.nodes import SHARDS, TRIALS
from tests.sleepmodel.tiny import CONFIG
from tests.waiting import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults"),
]

ROOT = Path(__file__).parents[2]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_what_a_lost_node_did_is_done_elsewhere(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.faults.nodes", str(tmp_path)]
    done = run(command, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert re.match(
        r"root = /proc/self/fd/900: node [\d.]+ of Ray does not see it .*shared directory .*s3://",
        result["unseen"],
    )
    assert result["alive"] == 1
    lost, whole = contents(tmp_path / "lost"), contents(tmp_path / "whole")
    assert lost == whole and len(lost) == SHARDS + 1
    assert len(result["trials"]) == TRIALS and all(trial["complete"] for trial in result["trials"])
    # the trial on the lost node repeats at most the validation that it was at
    assert result["validations"] <= TRIALS * CONFIG.steps // CONFIG.validate_every + 1
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (tune,) = client.search_runs(["1"], "attributes.run_name = 'tune'")
    runs = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{tune.info.run_id}'")
    assert len(runs) == TRIALS and {run.info.status for run in runs} == {"FINISHED"}
    for trial in runs:
        steps = sorted(point.value for point in client.get_metric_history(trial.info.run_id, "step"))
        assert steps == [*range(CONFIG.validate_every, CONFIG.steps + 1, CONFIG.validate_every)]
