"""A task and a mixer from files beside which the command was typed, through the whole pipeline on a running Ray."""

import json
import os
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from datagen.reader import read_dataset
from pipelines.stages.generate import dataset
from sleepmodel.config.model import ModelConfig
from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TASKS = """
from dataclasses import dataclass
import numpy as np
from datagen import Rows, Task
from datagen.task import random_stream, raw_words
from own_words import LABELS

@dataclass(frozen=True)
class Majority(Task):
    bits: int
    name = "most"
    vocabulary = (*LABELS, "?")

    @property
    def context_length(self):
        return self.bits

    @property
    def row_length(self):
        return self.bits + 2

    @property
    def max_depth(self):
        return self.bits

    def sample(self, split, seed, shard, rows):
        words = raw_words(random_stream(self, split, seed, shard), rows * self.bits).reshape(rows, -1)
        bits = (words >> np.uint64(63)).astype(np.uint16)
        most = (2 * bits.sum(axis=1, keepdims=True) > self.bits).astype(np.uint16)
        one = np.ones((rows, 1), np.int32)
        tokens = np.concatenate([bits, np.full_like(most, 2), most], axis=1)
        return Rows(tokens, answer_start=one * (self.bits + 1), answer_length=one, answer_depth=one * self.bits)

    def question_text(self, asked):
        return super().question_text(asked)._replace(problem=f"Which of {asked.depth} bits is more frequent?")

    def kinds(self, rows):
        return ["begins with " + words[0] for words in rows]
"""
RULES = """
from sleepmodel.mixers.gated_delta import GatedDelta

class Fading(GatedDelta):
    def log_decay(self, x):
        return super().log_decay(x) - 0.1
"""


def test_they_run_as_ours_do(ray_cluster: str, tmp_path: Path) -> None:
    """Workers import the task (generation), the mixer (training, evaluation) and a module that it needs; this
    Ray was started without their directory."""
    (tmp_path / "own_words.py").write_text('LABELS = ("zero", "one")\n')
    (tmp_path / "own_tasks.py").write_text(TASKS)
    (tmp_path / "own_rules.py").write_text(RULES)
    root = tmp_path / "runs"
    assignments = ["task=own_tasks:Majority", "task.bits=12", "model.window=12", "seeds=[20]", "search=null"]
    assignments += ["model.mixers=[attention, 'own_rules:Fading']", "model.d_model=8", "data.validation_rows=32"]
    result = run(
        [sys.executable, str(ROOT / "pipelines/full.py"), "smoke", "--root", str(root), "--set", *assignments],
        limit=800,
        cwd=tmp_path,
        env={**os.environ, "RAY_ADDRESS": ray_cluster, "COLUMNS": "200"},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "sleep-most" in result.stdout and "@champion" in result.stdout
    (generated,) = (root / "steps/generate").iterdir()
    found = read_dataset(dataset(generated))
    assert found.task == "most" and found.config == {"bits": 12} and found.vocabulary == ("zero", "one", "?")
    (trained,) = (root / "steps/train-n1-seed20").iterdir()
    model = ModelConfig.from_dict(json.loads((trained / "model/config.json").read_text()))
    assert model.mixers == ("attention", "own_rules:Fading")
    assert (model.vocab_size, model.max_positions) == (3, 14)  # followed the task
    (evaluated,) = (root / "steps/evaluate").iterdir()
    results = json.loads((evaluated / "results.json").read_text())
    assert set(results[0]["accuracy"]["kinds"]) == {"begins with zero", "begins with one"}
    assert "Which of 12 bits is more frequent?" in (evaluated / "mistakes.md").read_text()
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    assert client.get_model_version_by_alias("sleep-most", "champion")
