"""A root that was moved or copied: its old artifacts are found, and new ones go to the new place."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from mlflow import MlflowClient

from sleepmodel import SleepModel, load
from sleepmodel.tracking.locations import artifact_path, sqlite_uri
from sleepmodel.tracking.registry import champion_model, promote
from sleepmodel.tracking.runs import TrackingStore, find_moved_artifacts, log_artifact, open_store, start_run
from tests.sleepmodel.tracking.conftest import MakeRoot
from tests.sleepmodel.tracking.helpers import (
    NAME,
    answers,
    client,
    fresh_identity,
    random_model,
    register_model,
)

pytestmark = pytest.mark.slow

CHAMPION = f"models:/{NAME}@champion"
Prompts = npt.NDArray[np.int64]


@pytest.fixture
def root(make_root: MakeRoot, tmp_path: Path, model: SleepModel, prompts: Prompts) -> Path:
    """A root with a champion and a run that has an artifact."""
    root = make_root(tmp_path / "mlartifacts" / "first")
    store = open_store(root)
    promote(store, NAME, register_model(store, model, prompts))
    (root / "report.md").write_text("as it was")
    log_artifact(store, report_run(store), root / "report.md")
    return root


@pytest.fixture
def moved(root: Path) -> Path:
    return root.rename(root.with_name("moved %2F?"))


def report_run(store: TrackingStore) -> str:
    return start_run(store, "report", "report", None, {}, {})


def report(store: TrackingStore) -> str:
    return Path(client(store).download_artifacts(report_run(store), "report.md")).read_text()


def files(root: Path) -> set[Path]:
    return {path.relative_to(root) for path in root.rglob("*")}


def test_the_champion_of_a_moved_root_is_loaded_without_a_write(
    moved: Path, model: SleepModel, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from another user's root, or from a mount elsewhere."""
    before = (moved / "mlflow.db").read_bytes()
    monkeypatch.setenv("SLEEPMODEL_ROOT", str(moved))
    assert answers(load(CHAMPION), prompts) == answers(model, prompts)
    monkeypatch.delenv("SLEEPMODEL_ROOT")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{sqlite_uri(moved / 'mlflow.db')}?timeout=60")
    assert answers(load(CHAMPION), prompts) == answers(model, prompts)
    assert (moved / "mlflow.db").read_bytes() == before


def test_a_moved_root_goes_on_at_its_new_place(
    root: Path, moved: Path, model: SleepModel, prompts: Prompts, tmp_path: Path
) -> None:
    store = open_store(moved)
    assert report(store) == "as it was"
    standing = champion_model(store, NAME)
    assert standing is not None and answers(standing, prompts) == answers(model, prompts)
    before = files(moved)
    second = register_model(store, random_model(1), prompts)
    log_artifact(store, start_run(store, "new", fresh_identity(), None, {}, {}), moved / "report.md")
    assert second == "2" and len([path for path in files(moved) - before if path.name == "report.md"]) == 1
    assert not root.exists()
    locations = {str(client(store).get_model_version(NAME, version).source) for version in ("1", second)}
    locations |= {logged.artifact_location for logged in client(store).search_logged_models([store.experiment_id])}
    locations |= {run.info.artifact_uri for run in client(store).search_runs([store.experiment_id])}
    assert all(str(artifact_path(location)).startswith(f"{moved}/mlartifacts/") for location in locations)


def test_mlflow_finds_the_artifacts_of_a_finished_pipeline_that_was_moved(moved: Path) -> None:
    """No pipeline opens its store any more: the command that says that all is done corrects it."""
    find_moved_artifacts(moved)
    uri = sqlite_uri(moved / "mlflow.db")
    place = MlflowClient(uri, uri).get_model_version_download_uri(NAME, "1")
    assert (Path(str(artifact_path(place))) / "MLmodel").is_file()


def test_a_copied_root_leaves_the_first_one_alone(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy")
    before = files(root)
    store = open_store(copy)
    new = start_run(store, "new", fresh_identity(), None, {}, {})
    log_artifact(store, new, copy / "report.md")
    assert report(store) == "as it was"
    assert files(root) == before and (copy / "mlartifacts" / new / "artifacts" / "report.md").is_file()
    shutil.rmtree(root)
    assert report(open_store(copy)) == "as it was"


def test_two_names_of_one_root_are_one_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    store = open_store(root)
    location = client(store).get_experiment(store.experiment_id).artifact_location
    open_store(tmp_path / "link")
    assert client(store).get_experiment(store.experiment_id).artifact_location == location


def test_roots_that_share_a_database_keep_their_artifacts_until_one_is_moved(
    make_root: MakeRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{make_root(tmp_path / 'shared')}/mlflow.db")
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        root.mkdir()
        (root / "report.md").write_text(root.name)
    store = open_store(first)
    log_artifact(store, report_run(store), first / "report.md")
    open_store(second)
    assert report(store) == "first" and not (second / "mlartifacts").exists()
    moved = first.rename(tmp_path / "moved")
    assert report(open_store(moved)) == "first"
