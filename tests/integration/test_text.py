"""Texts of one's own through the whole pipeline: imported, trained on, evaluated by kind and depth, and registered."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from datagen.reader import read_dataset
from pipelines.stages.generate import dataset
from tests.datagen.text.importing import write_records
from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 128, "validation": 16, "test": 24}


def script(name: str, *arguments: str, address: str, cwd: Path) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / f"pipelines/{name}.py"), *arguments, "--root", "runs"]
    result = run(command, limit=800, cwd=cwd, env={**os.environ, "RAY_ADDRESS": address, "COLUMNS": "200"})
    return result.returncode, result.stdout + result.stderr


def test_texts_are_imported_and_trained_on(ray_cluster: str, tmp_path: Path) -> None:
    records = [
        {"prompt": f"{split} {i}: ", "completion": f"{i}.", "split": split, "kind": f"kind {i % 2}", "depth": 1 + i % 3}
        for split, count in COUNTS.items()
        for i in range(count)
    ]
    write_records(tmp_path / "own/questions.jsonl", [*records, {"prompt": "no completion"}])
    importing = ("--task", "text", "--import", "own")
    status, said = script("generate", *importing, address=ray_cluster, cwd=tmp_path)
    assert status == 1 and "own/questions.jsonl, line 169: must have prompt and completion" in said, said
    status, said = script("generate", *importing, "--skip-malformed", address=ray_cluster, cwd=tmp_path)
    assert status == 0 and "test: 24 documents" in said and "1 lines" in said, said
    (path,) = re.findall(r"task\.path=(\S+)", said)
    assignments = ["task=text", f"task.path={path}", "model.window=8", "model.sleep_on=all", "model.d_model=8"]
    assignments += ["seeds=[20]", "search=null", "train.rows=128", "train.batch_size=16", "train.steps=30"]
    rows = [f"data.{split}_rows={count}" for split, count in COUNTS.items()]
    too_many = script("full", "smoke", "--set", *assignments, *rows[:2], address=ray_cluster, cwd=tmp_path)
    assert too_many[0] == 2 and "test has 24 of the" in too_many[1] and "set data.test_rows=24" in too_many[1]
    status, said = script("full", "smoke", "--set", *assignments, *rows, address=ray_cluster, cwd=tmp_path)
    assert status == 0 and "sleep-text" in said, said
    (generated,) = (tmp_path / "runs/steps/generate").iterdir()
    assert {name: split.rows for name, split in read_dataset(dataset(generated)).splits.items()} == COUNTS
    (evaluated,) = (tmp_path / "runs/steps/evaluate").iterdir()
    accuracy = json.loads((evaluated / "results.json").read_text())[0]["accuracy"]
    assert set(accuracy["kinds"]) == {"kind 0", "kind 1"} and set(accuracy["answers"]) == {"1", "2", "3"}
    assert "test 1:" in (evaluated / "mistakes.md").read_text()
    assert MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_model_version_by_alias("sleep-text", "champion")
