"""A small random model, and what a store holds."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from sleepmodel import ModelConfig, SleepModel
from sleepmodel.tracking.registry import register
from sleepmodel.tracking.runs import TrackingStore, start_run
from sleepmodel.training.progress import Progress
from tests.sleepmodel.greedy import greedy

CONFIG = ModelConfig(
    vocab_size=3,
    d_model=16,
    n_heads=2,
    mixers=("attention", "gated_delta"),
    window=8,
    fast_heads=1,
    key_dim=8,
    value_dim=8,
    max_positions=40,
)
NAME, N = "sleep-test", 3
AT = Progress(
    step=10,
    steps=40,
    tokens=640,
    seconds=2.0,
    tokens_per_second=320.0,
    loss=0.7,
    grad_norm=1.5,
    rate=0.4,
    accuracy=0.2,
    flops=10**9,
)
_numbers = itertools.count()


def fresh_identity() -> str:
    return f"identity-{next(_numbers)}"


def random_model(seed: int) -> SleepModel:
    """All weights random: a new model's output projections are zero, so that it would answer the same to everything."""
    model = SleepModel(CONFIG).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(generator=generator)
    return model


def answers(model: SleepModel, prompts: npt.NDArray[np.int64]) -> list[list[int]]:
    found: list[list[int]] = greedy(model, torch.from_numpy(prompts), N).tolist()
    return found


def client(store: TrackingStore) -> MlflowClient:
    return MlflowClient(store.uri, store.uri)


def read(store: TrackingStore, run_id: str) -> Run:
    return client(store).get_run(run_id)


def curve(store: TrackingStore, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client(store).get_metric_history(run_id, metric)]


def register_model(store: TrackingStore, model: SleepModel, prompts: npt.NDArray[np.int64], name: str = NAME) -> str:
    """The version of a model that is registered from a run of its own."""
    run = start_run(store, "train", fresh_identity(), None, {}, {})
    return register(store, run, model, name, prompts[:2], N, {"dataset": "abc"})
