"""A store, a model, and the model as the champion, for each module."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow import MlflowClient

from sleepmodel import SleepModel
from sleepmodel.tracking.registry import Version, promote
from sleepmodel.tracking.runs import TrackingStore, open_store, start_run
from tests.sleepmodel.tracking.helpers import CONFIG, NAME, fresh_identity, random_model, register_model

MakeRoot = Callable[[Path], Path]


@pytest.fixture(scope="module", autouse=True)
def nothing_set() -> Iterator[None]:
    """Nothing in the environment names a store. One thread: models this small are many times slower on two where the
    cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("SLEEPMODEL_ROOT", raising=False)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_root(tmp_path_factory: pytest.TempPathFactory) -> MakeRoot:
    """Makes a directory a pipeline's root with an empty database, which MLflow takes seconds to create anew."""
    empty = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{empty}").search_experiments()

    def make(root: Path) -> Path:
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(empty, root)
        return root

    return make


@pytest.fixture(scope="module")
def root(make_root: MakeRoot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def store(root: Path, tmp_path_factory: pytest.TempPathFactory) -> TrackingStore:
    """The store under `root`, opened from a directory in which it must leave nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        store = open_store(root)
        assert os.listdir() == []
        return store


@pytest.fixture
def run(store: TrackingStore) -> str:
    return start_run(store, "a run", fresh_identity(), None, {}, {})


@pytest.fixture(scope="module")
def model() -> SleepModel:
    return random_model(0)


@pytest.fixture(scope="module")
def prompts() -> npt.NDArray[np.int64]:
    return np.random.default_rng().integers(0, CONFIG.vocab_size, (16, 19))


@pytest.fixture(scope="module")
def registered(store: TrackingStore, model: SleepModel, prompts: npt.NDArray[np.int64]) -> Version:
    """`model` as the champion."""
    version = register_model(store, model, prompts)
    promote(store, NAME, version)
    return Version(NAME, version, {"dataset": "abc"})
