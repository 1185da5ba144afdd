"""A root in a store, by a real S3 server: stages, who works on them, and what is refused before any work."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console
from s3fs import S3FileSystem

from datagen.storage import as_path
from pipelines import cli
from pipelines.config.presets import PRESETS
from pipelines.engine import leases
from pipelines.engine.locks import LOCKS, StageLocked, hold_locks, lock_file
from pipelines.engine.scheduler import StageFailed, execute
from pipelines.engine.stage import Stage, StageContext, State, state
from pipelines.plan import plan
from pipelines.runtime.live import PlainView
from pipelines.runtime.services import Services
from sleepmodel.distributed import job
from sleepmodel.distributed.job import TrainingJob
from tests.sleepmodel.tiny import CONFIG, MODEL
from tests.waiting import Background, wait_for

ROOT = Path(__file__).parents[2]
STRANGER = {"pid": os.getpid(), "host": "another", "preset": "demo", "since": "2026-01-01T00:00:00+00:00"}

HOLDER = """
import sys
from datagen.storage import as_path
from pipelines.engine import leases
leases.RENEW_SECONDS = 0.1
with leases.hold_lease(as_path(sys.argv[1]), {"pid": 1, "host": "here"}):
    print("held", flush=True)
    sys.stdin.read()
"""


def nothing(run: StageContext) -> None:
    """A stage that makes no file."""


TRAIN = Stage("train", 1, nothing)


def test_a_stage_is_done_when_its_last_file_is(store: Path) -> None:
    """Under another root it has the same identity, and a stage that failed keeps what it wrote."""
    fails = [True]

    def work(run: StageContext) -> None:
        (run.output / f"part{len(fails)}").write_text("x")
        if fails:
            fails.pop()
            raise RuntimeError("broken off")

    stage = Stage("slow", {"a": 1}, work)
    console = Console(file=io.StringIO())
    assert state(stage, store) is State.TODO
    with pytest.raises(StageFailed, match=rf"stage slow failed in {store}/steps/slow/{stage.identity}: .*broken off"):
        execute([stage], str(store), 1, PlainView(console))
    assert state(stage, store) is State.BROKEN
    execute([stage], store, 1, PlainView(console))
    assert state(stage, store) is State.DONE
    assert sorted(path.name for path in stage.output(store).iterdir()) == ["SUCCESS", "config.json", "part0", "part1"]
    assert not execute([stage], store, 1, PlainView(console)).ran
    (stage.output(store) / "SUCCESS").write_text("{")
    assert state(stage, store) is State.BROKEN


def test_a_lease_is_taken_over_only_when_nobody_renews_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lock_file(TRAIN, store)
    lease.write_text(json.dumps(STRANGER))
    assert leases.STALE_SECONDS == 60
    monkeypatch.setattr(leases, "STALE_SECONDS", 10**6)  # which no busy machine lets pass
    said = r"stage train: process \d+ on another \(preset demo, since 2026.*expires after 1000000 s"
    with pytest.raises(StageLocked, match=said), hold_locks([TRAIN], store, "smoke"):
        pytest.fail("two pipelines work on one step")
    monkeypatch.setattr(leases, "STALE_SECONDS", 0)
    time.sleep(1.1)  # the store's clock counts in seconds
    with hold_locks([TRAIN], store, "smoke"):
        assert json.loads(lease.read_text())["host"] == socket.gethostname()
    assert not lease.exists()


def test_who_hears_nothing_from_the_store_ends_before_another_takes_over(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store accepts the request to renew, and never answers."""
    lease, killed = leases._Lease(store / LOCKS / "lease", {"pid": 1, "host": "here"}), list[int]()
    lease.take()
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(leases, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(leases, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(leases.os, "kill", lambda pid, number: killed.append(number))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        lease.fs = S3FileSystem(endpoint_url=address, skip_instance_cache=True)
        lease.renew_until(threading.Event())
    assert lease.lost and killed == [signal.SIGTERM]


@pytest.mark.parametrize("given_back", [False, True])
def test_a_lease_is_renewed_and_who_has_lost_it_ends(store: Path, given_back: bool) -> None:
    """As after a laptop's sleep: another has taken the stage over, or even finished it, and two must not write."""
    lease = store / LOCKS / "lease"
    with Background([sys.executable, "-c", HOLDER, str(lease)], stdin=subprocess.PIPE, cwd=ROOT) as holder:
        holder.until_it_prints("held")
        taken = lease.stat().st_mtime
        holder.until(lambda: lease.stat().st_mtime != taken, "a renewed lease")
        if given_back:
            lease.unlink()
        else:
            lease.write_text(json.dumps(STRANGER))
        assert holder.until_it_ends() == -signal.SIGTERM
        assert "was lost and another pipeline may hold it: this process ends" in holder.output()
    assert not lease.exists() if given_back else json.loads(lease.read_text()) == STRANGER


class _Careless(BaseHTTPRequestHandler):
    """A store that writes whatever the condition."""

    protocol_version = "HTTP/1.1"  # its clients wait to be told to go on

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def careless_store() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Careless) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_store_without_conditional_writes_is_refused(store_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    S3FileSystem.clear_instance_cache()
    try:
        with careless_store() as address:
            monkeypatch.setenv("AWS_ENDPOINT_URL", address)
            lease = as_path("s3://runs/x/locks/a")
            said = pytest.raises(OSError, match=r"s3://runs/x/locks/a: this object store ignores If-None-Match")
            with said, leases.hold_lease(lease, STRANGER):
                pytest.fail("nobody can hold a lease there")
    finally:
        S3FileSystem.clear_instance_cache()


def test_a_store_needs_an_mlflow_elsewhere(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="an object store cannot hold an MLflow database; set MLFLOW_TRACKING_URI"):
        cli.run("full", PRESETS["smoke"], store, Console(file=io.StringIO()))
    assert not store.exists()


def test_the_command_refuses_a_missing_bucket_in_one_line(
    server: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["full.py", "smoke", "--root", "s3://nobody/x"])
    with pytest.raises(SystemExit) as ended:
        cli.main("full", None)
    assert ended.value.code == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert said == "error: s3://nobody/x: bucket 'nobody' does not exist: create it, or use another one\n"


def test_stages_are_those_of_a_local_root(store: Path, tmp_path: Path) -> None:
    there, here = (plan(PRESETS["smoke"], Services(PRESETS["smoke"], root)) for root in (store, tmp_path))
    assert [stage.identity for stage in there] == [stage.identity for stage in here]


def test_trainings_see_a_request_to_stop(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = store / LOCKS / "1.stop"
    asks = TrainingJob("t", MODEL, CONFIG, "", "", stop=str(stop))
    monkeypatch.setattr(job, "STOP_SECONDS", 0.1)
    assert not asks.asked_to_stop()
    stop.touch()
    wait_for(asks.asked_to_stop, "the request to stop, which is looked for at an interval")


def test_a_store_that_does_not_say_whether_to_stop_ends_no_training(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = store / LOCKS / "2.stop"
    stop.touch()
    asks = TrainingJob("t", MODEL, CONFIG, "", "", stop=str(stop))
    monkeypatch.setattr(job, "STOP_SECONDS", 0.1)

    def silent(path: Path) -> bool:
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(type(stop), "exists", silent)
        assert not asks.asked_to_stop()
    wait_for(asks.asked_to_stop, "the request to stop, once the store answers")
