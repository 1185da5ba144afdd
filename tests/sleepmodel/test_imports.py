"""`import sleepmodel`, training by hand and the GPU benchmark need torch (and its numpy) alone: a GPU box may have
nothing else."""

import sys
from pathlib import Path

import pytest

from tests.waiting import run

ABSENT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    names = {"ray", "deepspeed", "mlflow", "pyarrow", "scipy", "matplotlib", "rich", "pydantic", "safetensors", "upath"}

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is absent")

sys.meta_path.insert(0, Absent())
"""
TRAINING = """
import torch
from datagen import Rule110
from sleepmodel import ModelConfig, SleepModel, TrainConfig
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train

model = ModelConfig(vocab_size=3, d_model=16, n_heads=2, mixers=("attention", "gated_delta"), window=6, fast_heads=1)
config = TrainConfig(steps=2, batch_size=4)
rows = Rule110(cells=6, states=1, steps=1).sample("train", 0, 0, 8)
history = train(LocalEngine(build_model(model, config), config), rows, config, lambda *_: 0.0, lambda at, save: None)
assert history[-1].step == 2
"""
BENCHMARK = """
import os
from benchmarks.gpu.__main__ import main
from benchmarks.results_file import provenance

main(["--device", "cpu"])
os.environ["PATH"] = ""  # nor git
assert provenance()["commit"] == "none"
"""
WORKER = """
import os, sys, tempfile
import torch
import sleepmodel.distributed.ray_worker
from pathlib import Path
from sleepmodel import Scale, SleepModel
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.training.loop import build_model, train
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)

def report(at, save):
    with tempfile.TemporaryDirectory() as directory:
        save(Path(directory))

rows = TASK.sample("train", 0, 0, 64)
engine = DeepSpeedEngine(build_model(MODEL, CONFIG), CONFIG, Scale())
train(engine, rows, CONFIG, lambda model, level: accuracy(model, rows).rows.value, report)
SleepModel.without_weights(MODEL)  # as a driver plans, and as a saved model is loaded
found = {"mlflow", "scipy", "sqlalchemy", "torch._dynamo"} & sys.modules.keys()
assert not found, found
import mlflow  # it was only hidden from DeepSpeed
"""


@pytest.mark.slow
def test_a_worker_of_a_training_imports_nothing_that_takes_a_second_for_nothing() -> None:
    result = run([sys.executable, "-c", WORKER], cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("code", [TRAINING, BENCHMARK])
def test_it_runs_with_torch_alone(code: str) -> None:
    command, root = [sys.executable, "-c", ABSENT + code], Path(__file__).parents[2]
    result = run(command, cwd=root)
    assert result.returncode == 0, result.stderr
