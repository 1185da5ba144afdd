"""The MLflow server of a cluster's head, whose database is lost with the head and comes back from the bucket."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from mlflow import MlflowClient
from sqlalchemy import create_engine

from datagen.storage import local_copy
from sleepmodel import load
from sleepmodel.tracking.registry import promote, register
from sleepmodel.tracking.runs import log_metrics, open_store, start_run
from sleepmodel.training.loop import build_model
from tests.sleepmodel.tiny import CONFIG, MODEL
from tests.store import free_ports
from tests.waiting import Background, run, wait_for

pytestmark = pytest.mark.slow
long = pytest.mark.skipif("MAKE_CLUSTER" not in os.environ, reason="takes minutes: make cluster")

ROOT = Path(__file__).parents[2]
START = ". ~/sleepmodel/cluster/mlflow.sh"


def environment(home: Path, root: Path, port: int) -> dict[str, str]:
    """That of a head whose home is `home`, with cluster/aws.env's settings."""
    if not home.exists():
        (home / "sleepmodel").mkdir(parents=True)
        (home / "sleepmodel/cluster").symlink_to(ROOT / "cluster")
    given = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return given | {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "NODE_ADDRESS": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "SLEEPMODEL_ROOT": str(root),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": f"{root}/mlflow",
    }


def processes(home: Path, program: str = "") -> list[psutil.Process]:
    """What a head runs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("HOME") == str(home) and program in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextmanager
def head(home: Path, root: Path, port: int) -> Iterator[None]:
    """A head that has sourced cluster/mlflow.sh; in the end all that it runs is killed at once, as with its machine."""
    try:
        started = run(["bash", "-c", START], env=environment(home, root, port))
        assert started.returncode == 0, started.stdout + started.stderr
        yield
    finally:
        for process in processes(home):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def metrics(database: Path) -> set[str]:
    """The names of the metrics in a database."""
    with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.OperationalError):
        return {name for (name,) in connection.execute("SELECT key FROM metrics")}
    return set()


def saved(snapshot: Path) -> set[str]:
    """The names of the metrics in the snapshot."""
    if not snapshot.exists():
        return set()
    with local_copy(snapshot) as copy:
        return metrics(copy)


@long
def test_runs_and_registry_survive_the_head(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One head is killed after a snapshot, the next one is told to end, and the third has all of both. The first one is
    refused when it comes back, as its old database would replace the snapshot."""
    (port,), snapshot = free_ports(1), store / "mlflow-snapshot.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    model = build_model(MODEL, CONFIG)
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))

    with head(first, store, port):
        tracking = open_store(Path("unused"))
        training = start_run(tracking, "training", "identity", None, {}, {})
        log_metrics(tracking, training, {"accuracy": 0.5}, 10)
        version = register(tracking, training, model, "sleep-test", np.zeros((2, 7), np.int64), 1, {"dataset": "abc"})
        promote(tracking, "sleep-test", version)
        (keeper,) = processes(first, "snapshots.py")
        keeper.terminate()  # sooner than in a minute
        wait_for(lambda: "accuracy" in saved(snapshot), "a snapshot")
        assert len(list((store / "mlflow").rglob("model.safetensors"))) == 1  # the weights are on the bucket

    with head(second, store, port):
        assert MlflowClient().get_run(training).data.metrics == {"accuracy": 0.5}
        weights = load("models:/sleep-test@champion").state_dict()
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        log_metrics(tracking, training, {"late": 1.0}, 20)
        assert "late" not in saved(snapshot)
        (keeper,) = processes(second, "snapshots.py")
        keeper.terminate()
        wait_for(lambda: not keeper.is_running(), "the last snapshot")

    third.mkdir()
    restore = [sys.executable, str(ROOT / "cluster/snapshots.py"), "restore"]
    for _ in range(2):  # the second time it has its own database
        assert run(restore, env=environment(third, store, port)).returncode == 0
        assert metrics(third / "mlflow.db") == {"accuracy", "late"}
    refused = run(["bash", "-c", f"{START} && echo started"], env=environment(first, store, port))
    assert refused.returncode == 1 and not refused.stdout and not processes(first)
    assert f"{snapshot} is not a snapshot of {first}/mlflow.db" in refused.stderr
    assert metrics(first / "mlflow.db") == {"accuracy"} and saved(snapshot) == {"accuracy", "late"}


def test_snapshots_follow_the_database_also_after_the_root_was_away(tmp_path: Path) -> None:
    """One process takes them, however often it is started, and a head that is started again keeps its database."""
    database, root = tmp_path / "mlflow.db", tmp_path / "root"
    snapshot = root / "mlflow-snapshot.db"
    settings = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{database}",
        "SLEEPMODEL_ROOT": str(root),
        "PYTHONPATH": str(ROOT),
    }
    root.touch()  # where the directory would be
    program = [sys.executable, str(ROOT / "cluster/snapshots.py")]
    keep = [*program, "keep", "--seconds", "0.1"]
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE metrics (key)")
        with Background(keep, env=settings) as keeper:
            keeper.until_it_prints(f"no snapshot of {database}: ")
            root.unlink()
            for name in ("first", "second"):
                connection.execute("INSERT INTO metrics VALUES (?)", (name,))
                connection.commit()
                keeper.until(lambda name=name: name in saved(snapshot), f"a snapshot with {name}")  # type: ignore[misc]
            assert run(keep, env=settings).returncode == 0 and keeper.poll() is None
        connection.execute("INSERT INTO metrics VALUES ('unsaved')")
        connection.commit()
    assert run([*program, "restore"], env=settings).returncode == 0
    assert metrics(database) == {"first", "second", "unsaved"}


def test_a_database_on_a_server_of_its_own_needs_no_snapshots(tmp_path: Path) -> None:
    settings = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://me:secret@192.0.2.1/mlflow",
        "SLEEPMODEL_ROOT": str(tmp_path),
        "PYTHONPATH": str(ROOT),
    }
    for action in ("restore", "keep"):
        done = run([sys.executable, str(ROOT / "cluster/snapshots.py"), action], env=settings)
        assert done.returncode == 0 and not list(tmp_path.iterdir())


def test_the_address_of_a_database_that_the_cluster_suggests_has_its_driver_there() -> None:
    """`postgresql://` alone means another driver, which the extra `cluster` does not install."""
    (address,) = set(re.findall(r"postgresql\S+", (ROOT / "cluster/aws.env").read_text()))
    assert create_engine(address).driver == "psycopg2"
