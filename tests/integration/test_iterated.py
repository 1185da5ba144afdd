"""Iterated sleep through the whole pipeline: trained on few steps, evaluated at many, registered, and asked again."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from datagen import read_rows
from pipelines.reporting.results import RESULTS
from pipelines.stages.generate import dataset
from sleepmodel import Session, load
from sleepmodel.distributed.job import read_training
from sleepmodel.evaluation.accuracy import score
from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PIPELINE = """
import sys
from dataclasses import replace
from pathlib import Path
from rich.console import Console
from pipelines.cli import run
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS

experiment = apply_overrides(PRESETS["rule110-iterated-mini"], sys.argv[2:])
run("full", replace(experiment, variants=experiment.variants[:1]), Path(sys.argv[1]), Console())
"""
SMALL = ("task.cells=6", "model.window=7", "model.d_model=16", "model.fast_heads=1", "seeds=[20]")
SHORT = ("train.steps=12", "train.batch_size=4", "train.validate_every=6", "train.curriculum.threshold=1e-6")
FEW = ("data.validation_rows=60", "data.test_rows=70")


@pytest.fixture(scope="module")
def finished(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("iterated")
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster, "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    code = [sys.executable, "-c", PIPELINE, str(root), *SMALL, *SHORT, *FEW]
    result = run(code, limit=800, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return root


def only(root: Path, stage: str) -> Path:
    (output,) = (root / "steps" / stage).iterdir()
    return output


def test_the_champion_asked_for_many_steps_answers_as_it_was_evaluated(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a session, with one pass more than steps, which is far above the model's own N."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{finished}/mlflow.db")
    model = load("models:/sleep-rule110@champion")
    assert model.config.sleep_passes == 4 and model.config.carry == "token" and model.config.reads_first
    path = dataset(only(finished, "generate"))
    rows = read_rows(path, "test")
    tokens, mask = rows.batch()
    window = model.config.window
    said = np.full(tokens.shape, -1)
    for depth in np.unique(rows.depths).tolist():
        which = rows.depths == depth
        session = Session(model, int(which.sum()), sleep_passes=depth + 1)
        session.read(torch.from_numpy(tokens[which, :window]))  # a full window, on which it sleeps by itself
        logits = session.read(torch.from_numpy(tokens[which, window:-1]))
        said[which, window + 1 :] = logits.argmax(-1).numpy()
    assert set(rows.depths.tolist()) == {1, 2, 3, 4, 8, 16, 32} and (mask == (said >= 0)).all()
    (result,) = RESULTS.load(only(finished, "evaluate"))
    shares = {depth: share.right for depth, share in score(said, rows).answers.items()}
    assert shares == {depth: share.right for depth, share in result.accuracy.answers.items()}
    assert len(np.unique(said[mask])) > 1


def test_traces_were_trained_on_and_are_logged(finished: Path) -> None:
    history = read_training(only(finished, "train-iterated-seed20")).history
    assert [at.level for at in history] == [1, 1] and all(at.trace_loss for at in history)
    client = MlflowClient(f"sqlite:///{finished}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'sleepmodel'")
    (training,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'train-iterated-seed20'")
    points = client.get_metric_history(training.info.run_id, "trace_loss")
    assert [point.value for point in points] == pytest.approx([at.trace_loss for at in history])
