"""Stores: found again from anywhere, in time, and not lost while they do not answer."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.store.db.utils
import pytest
from urllib3.connectionpool import HTTPConnectionPool

from sleepmodel.tracking import runs as tracking
from sleepmodel.tracking.runs import (
    ProgressLog,
    TrackingStore,
    end_run,
    find_run,
    log_artifact,
    open_store,
    send_curve,
    start_run,
    tracking_uri,
)
from tests.sleepmodel.tracking.conftest import MakeRoot
from tests.sleepmodel.tracking.helpers import AT, client, curve, fresh_identity, read
from tests.sleepmodel.tracking.server import free_port, server
from tests.waiting import run as execute
from tests.waiting import scaled, wait_for

pytestmark = pytest.mark.slow

SCRIPTS = Path(sys.executable).parent


def test_a_store_goes_to_workers_and_depends_on_no_current_directory(root: Path, store: TrackingStore) -> None:
    assert pickle.loads(pickle.dumps(store)) == store
    assert store.uri == f"sqlite:///{root}/mlflow.db"
    experiment = client(store).get_experiment(store.experiment_id)
    assert experiment.name == "sleepmodel"
    assert experiment.artifact_location == (root / "mlartifacts").as_uri()


def test_a_store_is_found_again_also_by_a_relative_path(
    root: Path, store: TrackingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    assert open_store(Path(root.name)) == store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root.name}/mlflow.db")
    other = open_store(Path("other"))
    assert (other.uri, other.experiment_id) == (store.uri, store.experiment_id)


NAMES = ["a?b", "job%2Fmain", "a#b%", 'it\'s "x" [1]*', "日本 é;&=@:+$X", "back\\slash"]


@pytest.mark.parametrize("name", NAMES)
def test_a_root_may_have_any_name(
    name: str, make_root: MakeRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path / "in" / name / "runs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("kept")
    store = open_store(root)
    run = start_run(store, "train", fresh_identity(), None, {}, {})
    log_artifact(store, run, tmp_path / "file.txt", "report")
    assert Path(client(store).download_artifacts(run, "report/file.txt")).read_text() == "kept"
    assert (root / "mlartifacts" / run / "artifacts" / "report" / "file.txt").is_file()
    assert sqlite3.connect(root / "mlflow.db").execute("select count(*) from runs").fetchone() == (1,)
    # MLflow makes the directories of addresses
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "in"] and os.listdir(tmp_path / "in") == [name]


@pytest.mark.parametrize(
    ("given", "absolute"),
    [
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("sqlite:///a/b.db?timeout=60", "sqlite:///{here}/a/b.db?timeout=60"),
        ("sqlite:///~/a.db?timeout=60", "sqlite:///{here}/a.db?timeout=60"),
        ("sqlite+pysqlite:///a%3Fb.db?timeout=60&cached_statements=9", "sqlite+pysqlite:///{here}/a%3Fb.db?timeout=60&cached_statements=9"),
        ("sqlite:////data/a.db?timeout=60", "sqlite:////data/a.db?timeout=60"),
        ("sqlite:///file:/data/a.db?mode=ro&uri=true", "sqlite:///file:/data/a.db?mode=ro&uri=true"),
        ("postgresql+psycopg2://me:pass@db:5432/mlflow?sslmode=require", "postgresql+psycopg2://me:pass@db:5432/mlflow?sslmode=require"),
        ("https://me:pass@mlflow.example/path", "https://me:pass@mlflow.example/path"),
    ],
)  # fmt: skip
def test_an_address_is_absolute_and_keeps_its_options(
    given: str, absolute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri("ignored") == absolute.format(here=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri("ignored"))
    assert tracking_uri("ignored") == absolute.format(here=tmp_path)


def test_a_root_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    root = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    with pytest.raises(ValueError, match=r"caf\\udce9': is not UTF-8, as Ray and MLflow need it: rename it"):
        open_store(root)
    assert not root.exists()


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite:///?timeout=1"])
def test_a_database_in_memory_is_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ValueError, match="in memory is lost with its process; give a file"):
        tracking_uri("ignored")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:///{here}/damaged.db", "file is not a database"),
        ("sqlite:///{here}", "unable to open database file"),
        ("postgresql+psycopg2://me:hidden@127.0.0.1:9/mlflow", "Connection refused"),
        ("postgresql+nodriver://127.0.0.1/mlflow", "nodriver"),
        ("postgresql+psycopg2://127.0.0.1:port/mlflow", "'port'"),
        ("oracle://127.0.0.1/mlflow", "unsupported URI"),
    ],
)
def test_a_database_that_cannot_be_used_is_said_so_at_once(
    uri: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        pytest.fail("MLflow tries again, for two minutes")

    monkeypatch.setattr(mlflow.store.db.utils, "time", SimpleNamespace(sleep=sleep))
    (tmp_path / "damaged.db").write_bytes(b"SQLite format 4" * 1000)
    uri = uri.format(here=tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConnectionError, match=rf"MLflow store .*{reason}[\s\S]*MLFLOW_TRACKING_URI") as raised:
        open_store(tmp_path / "root")
    assert "hidden" not in str(raised.value)


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(make_root: MakeRoot, tmp_path: Path) -> None:
    root = make_root(tmp_path / "it's one")
    store = open_store(root)
    run = start_run(store, "train", fresh_identity(), None, {}, {})
    client(store).delete_experiment(store.experiment_id)
    with pytest.raises(ValueError, match=r"'sleepmodel' was deleted\. Restore it with its runs: ") as raised:
        open_store(root)
    command = str(raised.value).partition("with its runs: ")[2]
    done = execute(["bash", "-c", command], env={**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}"})
    assert done.returncode == 0, done.stderr
    assert open_store(root) == store and read(store, run).info.lifecycle_stage == "active"


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each HTTP request, retries among them, would wait for an answer."""
    asked, urlopen = list[float](), HTTPConnectionPool.urlopen

    def noted(pool: HTTPConnectionPool, *arguments: Any, **options: Any) -> Any:
        asked.append(options["timeout"].read_timeout)
        return urlopen(pool, *arguments, **options)

    monkeypatch.setattr(HTTPConnectionPool, "urlopen", noted)
    return asked


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_does_not_answer_is_named_without_minutes_of_retries(
    listens: bool, tmp_path: Path, patience: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.PROBE_SECONDS <= 5
    monkeypatch.setattr(tracking, "PROBE_SECONDS", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        if listens:
            held.listen()
        uri = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(ConnectionError, match=rf"{uri}.*MLFLOW_TRACKING_URI"):
            open_store(tmp_path)
    assert patience == [1]
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"


def test_threads_that_probe_at_once_leave_the_limits_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    inside, probed, over = threading.Event(), threading.Event(), threading.Event()

    def probe() -> None:
        inside.wait(scaled())
        with tracking.first_contact(f"sqlite:///{tmp_path}/b.db"):
            probed.set()
            over.wait(scaled())  # it ends after the first one, whose limits it would restore

    with ThreadPoolExecutor(1) as other:
        second = other.submit(probe)
        with tracking.first_contact(f"sqlite:///{tmp_path}/a.db"):
            inside.set()
            probed.wait(0.2)  # in vain: it waits for this one to end
        over.set()
        second.result()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"


def test_a_server_that_goes_away_holds_no_training_up_and_loses_no_point(
    make_root: MakeRoot, tmp_path: Path, patience: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(scaled())))
    monkeypatch.setattr(tracking, "PROBE_SECONDS", int(scaled()))
    reports = [replace(AT, step=step, tokens=64 * step, loss=1 / step) for step in (10, 20, 30, 40, 50)]
    with server(make_root(tmp_path), port) as send:
        store = open_store(tmp_path)
        run = start_run(store, "train", fresh_identity(), None, {}, {})
        log = ProgressLog(store, run)
        log.log(reports[0])
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        send(signal.SIGSTOP)
        patience.clear()
        log.log(reports[1])
        log.log(reports[2])  # the second does not even ask
        assert patience == [1] and [at for at, _ in log.waiting] == reports[1:3]
        with pytest.raises(ConnectionError, match=rf"127.0.0.1:{port} does not answer any more.*run the same command"):
            send_curve(store, run, reports)
        send(signal.SIGCONT)  # the server may now answer what nobody waits for any more
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(scaled())))
        ProgressLog(store, run).log(reports[3])  # a worker that was started again, without what the first one kept
        monkeypatch.setattr(log, "_silent_until", 0.0)
        log.log(reports[2])
        log.log(reports[4])
        assert not log.waiting
        send_curve(store, run, reports)
        assert sorted(curve(store, run, "loss")) == [(at.tokens, at.loss) for at in reports]


def write_runs(store: TrackingStore, name: str, together: threading.Barrier) -> None:
    together.wait()
    for i in range(3):
        run = start_run(store, name, f"{name}-{i}", None, {"i": i}, {})
        log = ProgressLog(store, run)
        for step in range(1, 6):
            log.log(replace(AT, step=step, tokens=step))
        log.send()
        end_run(store, run, "FINISHED")


def test_eight_processes_write_to_sqlite_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store, context = open_store(tmp_path), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    together = context.Barrier(8, timeout=scaled())
    writers = [context.Process(target=write_runs, args=(store, f"w{n}", together)) for n in range(8)]
    for writer in writers:
        writer.start()
    try:
        wait_for(lambda: any(w.exitcode for w in writers) or all(w.exitcode == 0 for w in writers), "the eight writers")
        assert not any(writer.exitcode for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
    for n in range(8):
        for i in range(3):
            run = find_run(store, f"w{n}-{i}")
            assert run is not None and [step for step, _ in curve(store, run, "loss")] == [1, 2, 3, 4, 5]
