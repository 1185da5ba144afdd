"""A node that is announced to be taken away: its training saves at its next step and goes on elsewhere."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from sleepmodel import load
from sleepmodel.distributed.job import MODEL
from tests.faults.drain import AT
from tests.sleepmodel.tiny import CONFIG
from tests.waiting import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults"),
]

ROOT = Path(__file__).parents[2]


def test_no_step_is_lost_with_a_node_that_is_drained(tmp_path: Path) -> None:
    """Both workers save between two reports, and continue from there: the run is the same run."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = run([sys.executable, "-m", "tests.faults.drain", str(tmp_path)], cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    # node, first checkpoint, and steps from there; after the last one nobody looks whether to stop
    left = CONFIG.steps - AT - 1
    expected = [["doomed", 0, AT], ["head", 0, AT], ["head", AT, left], ["spare", AT, left]]
    assert json.loads((tmp_path / "result.json").read_text()) == expected
    weights, others = (load(tmp_path / name / MODEL).state_dict() for name in ("drained", "undisturbed"))
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (logged,) = client.search_runs(["1"], "attributes.run_name = 'drained'")
    steps = sorted(point.value for point in client.get_metric_history(logged.info.run_id, "step"))
    assert steps == [*range(CONFIG.validate_every, CONFIG.steps + 1, CONFIG.validate_every)]
