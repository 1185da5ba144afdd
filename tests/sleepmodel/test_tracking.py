"""MLflow on real SQLite stores: one run an identity, curves without doubled points, models that load anywhere."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModelContext
from urllib3.connectionpool import HTTPConnectionPool

from sleepmodel import ModelConfig, SleepModel, load, save
from sleepmodel.tracking import runs as tracking
from sleepmodel.tracking.provenance import COMMIT_TAG, DIRTY_TAG, git_commit
from sleepmodel.tracking.pyfunc import Answers
from sleepmodel.tracking.registry import Version, champion, champion_model, download_model, promote, register
from sleepmodel.tracking.runs import (
    ProgressLog,
    TrackingStore,
    commit_of_run,
    end_run,
    find_run,
    log_artifact,
    log_metrics,
    open_store,
    send_curve,
    start_run,
)
from sleepmodel.training.progress import Progress
from tests.sleepmodel.greedy import greedy
from tests.waiting import Background, scaled, wait_for
from tests.waiting import run as execute

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are many times slower on two threads than on one where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline's root, with nothing in the environment that points elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("SLEEPMODEL_ROOT", raising=False)
        yield tmp_path_factory.mktemp("root")


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
    run = start_run(store, "train", fresh_identity(), None, {}, {})
    version = register(store, run, model, NAME, prompts[:2], N, {"dataset": "abc"})
    promote(store, NAME, version)
    return Version(NAME, version, {"dataset": "abc"})


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


# --- the store


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
    assert open_store(Path("ignored")) == store


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


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextmanager
def server(root: Path, port: int) -> Iterator[Callable[[signal.Signals], None]]:
    """A real MLflow server over the database under `root`; a function that sends a signal to all of it."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{root}/mlflow.db",
        "--artifacts-destination",
        str(root / "artifacts"),
    ]

    def answers() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=scaled(2)):
            return True
        return False

    with Background(command) as process:
        process.until(answers, f"an answer at port {port}")
        yield lambda signal: os.killpg(process.pid, signal)


def test_a_server_that_goes_away_holds_no_training_up_and_loses_no_point(
    tmp_path: Path, patience: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(int(scaled())))
    monkeypatch.setattr(tracking, "PROBE_SECONDS", int(scaled()))
    reports = [replace(AT, step=step, tokens=64 * step, loss=1 / step) for step in (10, 20, 30, 40, 50)]
    with server(tmp_path, port) as send:
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


# --- runs


def test_an_identity_has_one_run_which_is_reopened(store: TrackingStore) -> None:
    identity = fresh_identity()
    assert find_run(store, identity) is None
    parent = start_run(store, "all", fresh_identity(), None, {}, {})
    first = start_run(store, "train", identity, parent, {"lr": 0.5}, {"kind": "step"})
    end_run(store, first, "FAILED")
    assert read(store, first).info.status == "FAILED"
    assert start_run(store, "train", identity, parent, {"lr": 0.5, "seed": 1}, {}) == first == find_run(store, identity)
    run = read(store, first)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "train"
    assert run.data.params == {"lr": "0.5", "seed": "1"}
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["kind"] == "step"


def test_a_run_tells_what_made_it(store: TrackingStore, run: str) -> None:
    tags = read(store, run).data.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    assert tags["sleepmodel.env.torch"] == torch.__version__
    assert tags["sleepmodel.env.cpus"] == str(os.cpu_count())
    for what in ("python", "platform", "ray", "deepspeed", "mlflow"):
        assert tags[f"sleepmodel.env.{what}"]


def test_the_commit_of_a_run_is_told_with_what_was_changed(store: TrackingStore) -> None:
    clean, dirty, bare = fresh_identity(), fresh_identity(), fresh_identity()
    for identity, changed in ((clean, "false"), (dirty, "true")):
        tags = {COMMIT_TAG: "abc", DIRTY_TAG: changed}
        start_run(store, "train", identity, None, {}, tags)
    assert (commit_of_run(store, clean), commit_of_run(store, dirty), commit_of_run(store, bare)) == (
        "abc",
        "abc-dirty",
        "",
    )


def test_changed_code_makes_a_commit_dirty_and_a_filled_page_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, page = tmp_path / "package" / "module.py", tmp_path / "docs" / "page.md"
    for file in (code, page):
        file.parent.mkdir()
        file.write_text("as committed\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    page.write_text("filled\n")
    assert git_commit(code) == head
    code.write_text("changed\n")
    assert git_commit(code) == f"{head}-dirty"


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("xyz .,", max_size=9)
_keys = st.text("abc_", min_size=1, max_size=5)
_trees = st.recursive(_leaves, lambda inner: st.dictionaries(_keys, inner, min_size=1, max_size=5), max_leaves=20)


@settings(max_examples=10)
@given(st.dictionaries(_keys, _trees, max_size=5))
def test_params_can_be_read_back_as_the_tree_they_were(store: TrackingStore, params: dict[str, Any]) -> None:
    def strings(tree: Any) -> Any:
        return {key: strings(value) for key, value in tree.items()} if isinstance(tree, dict) else str(tree)

    run = start_run(store, "tree", fresh_identity(), None, params, {})
    tree: dict[str, Any] = {}
    for name, value in read(store, run).data.params.items():
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    assert tree == strings(params)


def test_params_beyond_the_limits_of_one_call(store: TrackingStore) -> None:
    params = {"many": {f"p{i}": i for i in range(250)}, "long": "x" * 10_000}
    identity = fresh_identity()
    for _ in range(2):
        run = start_run(store, "many", identity, None, params, {})
    logged = read(store, run).data.params
    assert len(logged) == 251
    assert logged["many.p249"] == "249"
    assert logged["long"] == "x" * 6000


def test_a_param_cannot_change_under_an_identity(store: TrackingStore) -> None:
    identity = fresh_identity()
    start_run(store, "train", identity, None, {"lr": 0.5}, {})
    with pytest.raises(MlflowException, match="lr"):
        start_run(store, "train", identity, None, {"lr": 0.25}, {})


def test_a_curve_has_each_point_once_after_restarts(store: TrackingStore, run: str) -> None:
    reports = [replace(AT, step=step, tokens=64 * step, loss=1 / step) for step in (10, 20, 30, 40)]
    for process in (reports[:2], reports[1:3], reports[:1] + reports[3:]):
        log = ProgressLog(store, run)
        for at in process:
            log.log(at)
    assert curve(store, run, "loss") == [(at.tokens, at.loss) for at in reports]
    assert curve(store, run, "step") == [(at.tokens, at.step) for at in reports]
    for metric in ("accuracy", "grad_norm", "tokens_per_second", "rate"):
        assert curve(store, run, metric) == [(at.tokens, getattr(AT, metric)) for at in reports]


def test_a_point_whose_answer_was_lost_is_one_point(
    store: TrackingStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has heard it, the training has not heard the store."""

    def unheard(*arguments: Any) -> None:
        log_metrics(*arguments)
        time.sleep(0.01)
        raise MlflowException("no answer")

    log = ProgressLog(store, run)
    monkeypatch.setattr(tracking, "log_metrics", unheard)
    log.log(AT)
    monkeypatch.undo()
    log.send()
    assert curve(store, run, "loss") == [(AT.tokens, AT.loss)]


def test_stages_in_threads_share_a_store(store: TrackingStore) -> None:
    def work(identity: str) -> str:
        run = start_run(store, identity, identity, None, {"identity": identity}, {})
        log = ProgressLog(store, run)
        for step in range(1, 6):
            log.log(replace(AT, step=step, tokens=step))
        end_run(store, run, "FINISHED")
        return run

    identities = [fresh_identity() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(work, identities))
    for run, identity in zip(runs, identities, strict=True):
        assert read(store, run).data.params == {"identity": identity}
        assert [step for step, _ in curve(store, run, "loss")] == [1, 2, 3, 4, 5]


def test_metrics_and_artifacts_go_to_the_run(store: TrackingStore, run: str, tmp_path: Path) -> None:
    log_metrics(store, run, {"test/accuracy": 0.5, "test/accuracy-depth-3": 1.0}, 640)
    assert curve(store, run, "test/accuracy-depth-3") == [(640, 1.0)]
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.svg").write_text("<svg/>")
    log_artifact(store, run, tmp_path / "plots", "report")
    log_artifact(store, run, tmp_path / "plots" / "curve.svg")
    files = client(store).list_artifacts(run, "report/plots")
    assert [file.path for file in files] == ["report/plots/curve.svg"]
    assert Path(client(store).download_artifacts(run, "curve.svg")).read_text() == "<svg/>"


# --- the registry


def test_a_run_has_one_version_and_another_run_the_next(
    store: TrackingStore, run: str, prompts: npt.NDArray[np.int64], registered: Version
) -> None:
    first = register(store, run, random_model(1), NAME, prompts, N, {})
    assert register(store, run, random_model(1), NAME, prompts, N, {}) == first != registered.version
    assert len(client(store).search_model_versions(f"name = '{NAME}' and run_id = '{run}'")) == 1


def test_the_champion_is_who_was_promoted_last(
    store: TrackingStore, run: str, prompts: npt.NDArray[np.int64], model: SleepModel
) -> None:
    name, rival = "sleep-champions", random_model(2)
    assert champion(store, name) is None
    assert champion_model(store, name) is None
    first = register(store, run, model, name, prompts, N, {"dataset": "abc"})
    assert champion(store, name) is None
    promote(store, name, first)
    second = register(
        store, start_run(store, "b", fresh_identity(), None, {}, {}), rival, name, prompts, N, {"dataset": "def"}
    )
    assert champion(store, name) == Version(name, first, {"dataset": "abc"})
    promote(store, name, second)
    assert champion(store, name) == Version(name, second, {"dataset": "def"})
    found = champion_model(store, name)
    assert found is not None
    assert answers(found, prompts) == answers(rival, prompts) != answers(model, prompts)


def test_a_logged_model_holds_no_pickle_and_pins_what_it_needs(store: TrackingStore, registered: Version) -> None:
    place = Path(client(store).get_model_version_download_uri(NAME, registered.version).removeprefix("file://"))
    files = [file for file in place.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {"", ".py", ".cpp", ".typed", ".json", ".yaml", ".txt", ".safetensors"}
    assert [file.name for file in files if not file.suffix] == ["MLmodel"]
    needed = dict(line.split("==") for line in (place / "requirements.txt").read_text().split())
    assert set(needed) == {"mlflow", "numpy", "safetensors", "torch"}
    assert needed["torch"] == torch.__version__.split("+")[0]


def test_the_signature_says_what_goes_in_and_out(
    store: TrackingStore, registered: Version, prompts: npt.NDArray[np.int64]
) -> None:
    place = client(store).get_model_version_download_uri(NAME, registered.version).removeprefix("file://")
    card = mlflow.models.Model.load(place)
    assert card.signature.inputs.input_dict()["tokens"].type == np.int64
    assert card.signature.outputs.input_dict()["answer"].shape == (-1, -1)
    assert [(param.name, param.default) for param in card.signature.params] == [("n", N)]
    example = json.loads((Path(place) / "input_example.json").read_text())
    assert example == {"tokens": prompts[:2].tolist()}


FRESH = """
import json, pickle, sys
sys.path.append(sys.argv[1])
import cloudpickle, mlflow.pyfunc, numpy, torch
class Forbidden:
    def __init__(self, *_, **__): raise AssertionError("a pickle was read")
pickle.load = pickle.loads = pickle.Unpickler = cloudpickle.load = cloudpickle.loads = torch.load = Forbidden
asked = json.load(sys.stdin)
served = mlflow.pyfunc.load_model(asked["uri"])
tokens = numpy.array(asked["prompts"])
told = {"pyfunc": served.predict({"tokens": tokens})["answer"].tolist()}
told["one"] = served.predict({"tokens": tokens}, params={"n": 1})["answer"].tolist()
told["served"] = mlflow.models.validate_serving_input(asked["uri"], asked["request"])["answer"].tolist()
try:
    served.predict({"tokens": tokens + 3})
except ValueError as error:
    told["error"] = str(error)
import sleepmodel
told["code"] = sleepmodel.__file__
session = sleepmodel.Session(sleepmodel.load(asked["uri"]), len(tokens))
session.read(torch.from_numpy(tokens))
told["loaded"] = session.generate(asked["n"]).tolist()
json.dump(told, sys.stdout)
"""


def test_a_machine_without_this_repository_gets_the_same_answers(
    root: Path,
    store: TrackingStore,
    registered: Version,
    model: SleepModel,
    prompts: npt.NDArray[np.int64],
    tmp_path: Path,
) -> None:
    expected = answers(model, prompts)
    assert len({tuple(answer) for answer in expected}) > 1
    asked = {
        "uri": f"models:/{NAME}@champion",
        "prompts": prompts.tolist(),
        "n": N,
        "request": json.dumps({"inputs": {"tokens": prompts.tolist()}}),
    }
    # -I and -S: neither the current directory nor the editable install of this repository can be imported from
    fresh = execute(
        [sys.executable, "-I", "-S", "-c", FRESH, sysconfig.get_path("purelib")],
        input=json.dumps(asked),
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": store.uri, "OMP_NUM_THREADS": "1"},
    )
    assert fresh.returncode == 0, fresh.stderr
    told = json.loads(fresh.stdout)
    assert Path(told["code"]).is_relative_to(root / "mlartifacts")
    assert told["pyfunc"] == told["served"] == told["loaded"] == expected
    assert told["one"] == [answer[:1] for answer in expected]
    assert "tokens[0, 0]" in told["error"]


@pytest.mark.parametrize("which", ["@champion", "/1"])
def test_load_finds_a_registered_model_under_the_root(
    which: str, root: Path, registered: Version, model: SleepModel, prompts: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SLEEPMODEL_ROOT", str(root))
    assert answers(load(f"models:/{NAME}{which}"), prompts) == answers(model, prompts)


def test_load_says_what_to_set_where_nothing_is_found(
    root: Path, registered: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"runs/mlflow\.db.*SLEEPMODEL_ROOT.*MLFLOW_TRACKING_URI"):
        download_model(f"models:/{NAME}@champion")
    assert os.listdir() == []
    monkeypatch.setenv("SLEEPMODEL_ROOT", str(root))
    for missing in (f"{NAME}@nobody", f"{NAME}/99", "nobody@champion", "nobody/1"):
        with pytest.raises(FileNotFoundError, match=f"{missing}.*SLEEPMODEL_ROOT"):
            download_model(f"models:/{missing}")
    with pytest.raises(ValueError, match="models:/<name>@<alias>"):
        download_model(f"models:/{NAME}")


Predict = Callable[[npt.NDArray[Any], int], list[list[int]]]


@pytest.fixture(scope="module")
def predict(model: SleepModel, tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """The pyfunc of `model`, called as MLflow does but without its own checks."""
    directory = tmp_path_factory.mktemp("model")
    save(model, directory)
    pyfunc, context = Answers(), PythonModelContext({"model": str(directory)}, None)  # type: ignore[no-untyped-call]
    pyfunc.load_context(context)
    return lambda tokens, n: pyfunc.predict(context, {"tokens": tokens}, {"n": n})["answer"].tolist()  # type: ignore[arg-type]


GOOD = np.ones((2, 19), np.int64)


@pytest.mark.parametrize(
    ("tokens", "n", "message"),
    [
        (GOOD[0], 1, r"tokens: must be integers \[B, T\].*int64 \[19\]"),
        (GOOD[:0], 1, r"B and T at least 1.*\[0, 19\]"),
        (GOOD[:, :0], 1, r"B and T at least 1.*\[2, 0\]"),
        (GOOD.astype(float), 1, r"integers.*float64"),
        (np.where(np.arange(19) == 5, 3, GOOD), 1, r"tokens\[0, 5\] = 3: .*0 to 2"),
        (np.where([[False], [True]], -1, GOOD), 1, "row 1 has only pads"),
        (GOOD[:, :16], 1, "row 0: its 16 tokens fill the last window of 8: .* must begin with a prompt token"),
        (np.where(np.arange(19) < [[3], [11]], -1, GOOD), 6, "n = 6: must be 1 to 5, as row 0's 16 tokens"),
        (GOOD, 6, r"n = 6: must be 1 to 5"),
        (GOOD, 0, r"n = 0: must be 1 to 5"),
        (np.ones((2, 41), np.int64), 1, r"42 tokens: must have at most max_positions = 40"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_answered_are_named(
    tokens: npt.NDArray[Any], n: int, message: str, predict: Predict
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(tokens, n)


@settings(max_examples=30)
@given(length=st.integers(1, 44), n=st.integers(1, 9), rows=st.integers(1, 3))
def test_prompts_are_refused_just_where_the_model_cannot_answer(
    length: int, n: int, rows: int, predict: Predict, model: SleepModel
) -> None:
    tokens = np.random.default_rng().integers(0, 3, (rows, length))
    try:
        expected = greedy(model, torch.from_numpy(tokens), n).tolist()
    except ValueError:
        with pytest.raises(ValueError, match="must"):
            predict(tokens, n)
    else:
        assert predict(tokens, n) == expected


@pytest.mark.parametrize("left", [True, False])
def test_prompts_of_many_lengths_are_answered_as_each_alone(left: bool, predict: Predict) -> None:
    prompts = [np.random.default_rng().integers(0, 3, length) for length in (3, 19, 11, 12)]
    tokens = np.full((4, 20), -1)
    for row, prompt in zip(tokens, prompts, strict=True):
        # 16: pads on the left that fill whole windows change nothing
        row[(16 if len(prompt) == 3 else 0) if left else 0 :][: len(prompt)] = prompt
    assert predict(tokens, 2) == [predict(prompt[None], 2)[0] for prompt in prompts]


def test_an_example_that_cannot_be_answered_registers_nothing(
    store: TrackingStore, run: str, model: SleepModel
) -> None:
    with pytest.raises(ValueError, match="n = 6"):
        register(store, run, model, "sleep-bad", GOOD, 6, {})
    assert not client(store).search_registered_models("name = 'sleep-bad'")
    assert not client(store).search_logged_models([store.experiment_id], f"source_run_id = '{run}'")
