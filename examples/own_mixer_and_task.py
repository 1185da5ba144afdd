"""A mixer (my_rules.py) and a task (my_tasks.py) of your own: train a small model with the plain loop, and test it."""

import torch
from my_tasks import Parity

from datagen import check_task
from sleepmodel import ModelConfig, TrainConfig
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train

torch.set_num_threads(1)
task = Parity(bits=8)
check_task(task)  # raises ValueError where a task breaks a promise

model = ModelConfig(
    vocab_size=len(task.vocabulary),
    d_model=32,
    n_heads=2,
    mixers=("attention", "my_rules:Oja"),  # module:Class, from this directory or anywhere on PYTHONPATH
    window=task.context_length,
    fast_heads=1,
    key_dim=16,
    value_dim=16,
    sleep_passes=2,
)
config = TrainConfig(steps=30, batch_size=64, warmup_steps=5, validate_every=10)
rows, test = task.sample("train", 0, 0, 1024), task.sample("test", 0, 0, 256)

engine = LocalEngine(build_model(model, config), config)
train(
    engine,
    rows,
    config,
    validate=lambda trained, level: accuracy(trained, test).rows.value,
    report=lambda at, save: print(at.line()),
)
