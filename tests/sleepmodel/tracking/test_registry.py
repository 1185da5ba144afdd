"""Registered models: loaded anywhere, without this repository and without a pickle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
import torch
from mlflow.types.schema import AnyType

from sleepmodel import SleepModel, load
from sleepmodel.tracking import runs as tracking
from sleepmodel.tracking.locations import artifact_path
from sleepmodel.tracking.registry import (
    ChampionUnavailable,
    Version,
    champion,
    champion_model,
    promote,
    promote_if,
    register,
)
from sleepmodel.tracking.runs import TrackingStore, open_store, start_run
from tests.sleepmodel.tracking.conftest import MakeRoot
from tests.sleepmodel.tracking.helpers import NAME, N, answers, client, fresh_identity, random_model, register_model
from tests.sleepmodel.tracking.server import free_port, server
from tests.waiting import run as execute
from tests.waiting import scaled

pytestmark = pytest.mark.slow


def test_a_run_has_one_version_and_another_run_the_next(
    store: TrackingStore, run: str, prompts: npt.NDArray[np.int64], registered: Version
) -> None:
    first = register(store, run, random_model(1), NAME, prompts, N, {})
    assert register(store, run, random_model(1), NAME, prompts, N, {}) == first != registered.version
    assert len(client(store).search_model_versions(f"name = '{NAME}' and run_id = '{run}'")) == 1


@pytest.mark.parametrize("killed_at", ["log_model_artifacts", "log_outputs", "create_model_version"])
def test_a_registration_that_was_killed_is_continued(
    store: TrackingStore,
    run: str,
    prompts: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    """With the model that it has logged, so that none stays behind which no version names."""
    model, name = random_model(1), f"sleep-killed-{killed_at}"

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, killed_at, killed)
        with pytest.raises(SystemExit):
            register(store, run, model, name, prompts, N, {})
    register(store, run, model, name, prompts, N, {})
    (version,) = client(store).search_model_versions(f"name = '{name}'")
    (logged,) = client(store).search_logged_models([store.experiment_id], f"source_run_id = '{run}'")
    assert logged.artifact_location == version.source and str(logged.status).endswith("READY")
    promote(store, name, str(version.version))
    loaded = champion_model(store, name)
    assert loaded is not None and answers(loaded, prompts) == answers(model, prompts)


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


def test_a_champion_that_another_process_promotes_meanwhile_is_judged_too(
    store: TrackingStore, model: SleepModel, prompts: npt.NDArray[np.int64]
) -> None:
    name = "sleep-raced"
    first, other, late = (register_model(store, model, prompts, name) for _ in range(3))
    promote(store, name, first)
    seen = list[str]()

    def judge(present: Version | None) -> tuple[bool, str]:
        assert present is not None
        seen.append(present.version)
        if present.version == first:
            promote(store, name, other)  # as another pipeline does while this one predicts
        return present.version == first, f"against v{present.version}"

    assert promote_if(store, name, late, judge) == (False, f"against v{other}")
    standing = champion(store, name)
    assert seen == [first, other] and standing is not None and standing.version == other
    assert promote_if(store, name, late, lambda present: (True, "better")) == (True, "better")
    promoted = champion(store, name)
    assert promoted is not None and promoted.version == late


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
    assert isinstance(card.signature.inputs.input_dict()["tokens"].type, AnyType)  # MLflow casts to any other type
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
        env={**os.environ, "MLFLOW_TRACKING_URI": store.uri},
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
    monkeypatch.setenv("SLEEPMODEL_ROOT", "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db?timeout=60")
    assert answers(load(f"models:/{NAME}{which}"), prompts) == answers(model, prompts)


def test_a_registered_model_is_loaded_from_a_root_of_any_name(
    make_root: MakeRoot, tmp_path: Path, model: SleepModel, prompts: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    root = make_root(tmp_path / "job%2Fmain?#1" / 'it\'s [a] "Ж"')
    store = open_store(root)
    promote(store, NAME, register_model(store, model, prompts))
    found = champion_model(store, NAME)
    assert found is not None and answers(found, prompts) == answers(model, prompts)
    monkeypatch.setenv("SLEEPMODEL_ROOT", str(root))
    assert answers(load(f"models:/{NAME}@champion"), prompts) == answers(model, prompts)


def test_load_says_what_to_set_where_nothing_is_found(
    root: Path, registered: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"runs/mlflow\.db.*SLEEPMODEL_ROOT.*MLFLOW_TRACKING_URI"):
        load(f"models:/{NAME}@champion")
    assert os.listdir() == []
    monkeypatch.setenv("SLEEPMODEL_ROOT", str(root))
    for missing in (f"{NAME}@nobody", f"{NAME}/99", "nobody@champion", "nobody/1", "it's@one", "it's/1"):
        with pytest.raises(FileNotFoundError, match=f"{missing}.*SLEEPMODEL_ROOT"):
            load(f"models:/{missing}")
    with pytest.raises(ValueError, match="models:/<name>@<alias>"):
        load(f"models:/{NAME}")


def test_an_example_that_cannot_be_answered_registers_nothing(
    store: TrackingStore, run: str, model: SleepModel, prompts: npt.NDArray[np.int64]
) -> None:
    with pytest.raises(ValueError, match="n = 6"):
        register(store, run, model, "sleep-bad", prompts, 6, {})
    assert not client(store).search_registered_models("name = 'sleep-bad'")
    assert not client(store).search_logged_models([store.experiment_id], f"source_run_id = '{run}'")


def config_of_another(place: Path) -> None:
    config = json.loads((place / "config.json").read_text())
    config["mixers"][1] = "nowhere:Rule"
    (place / "config.json").write_text(json.dumps(config))


DAMAGE: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "all files": (lambda place: shutil.rmtree(place.parents[1]), FileNotFoundError, "does not exist"),
    "weights": (lambda place: (place / "model.safetensors").unlink(), FileNotFoundError, "no model.safetensors"),
    "part of the weights": (lambda place: os.truncate(place / "model.safetensors", 2000), ValueError, "safetensors"),
    "config": (lambda place: (place / "config.json").write_text("{"), ValueError, "config.json"),
    "code of a mixer": (config_of_another, ValueError, "nowhere"),
}


@pytest.mark.parametrize("missing", list(DAMAGE))
def test_a_champion_that_cannot_be_loaded_is_named_with_a_way_on(
    missing: str, store: TrackingStore, model: SleepModel, prompts: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    damage, error, reason = DAMAGE[missing]
    name = f"sleep-without-{missing.replace(' ', '-')}"
    version = register_model(store, model, prompts, name)
    promote(store, name, version)
    place = artifact_path(client(store).get_model_version_download_uri(name, version))
    assert place is not None
    damage(place / "artifacts" / "model")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    with pytest.raises(error, match=reason):
        load(f"models:/{name}@champion")
    said = rf"champion v{version} of {name} cannot be loaded from {place.as_uri()}: .*{reason}.* Restore these files"
    with pytest.raises(ChampionUnavailable, match=said) as raised:
        champion_model(store, name)
    command = str(raised.value).partition("without a comparison: ")[2]
    assert command.startswith(f"MLFLOW_TRACKING_URI={store.uri} ")
    if missing == "weights":  # one is enough: it takes seconds to import MLflow
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        done = execute(["bash", "-c", command])
        assert done.returncode == 0, done.stderr
        assert champion(store, name) is None and champion_model(store, name) is None


def test_a_version_that_is_deleted_is_no_champion_and_an_archived_one_is(
    store: TrackingStore, model: SleepModel, prompts: npt.NDArray[np.int64]
) -> None:
    name = "sleep-deleted"
    version = register_model(store, model, prompts, name)
    promote(store, name, version)
    client(store).transition_model_version_stage(name, version, "Archived")
    standing = champion(store, name)
    assert standing is not None and standing.version == version and champion_model(store, name) is not None
    client(store).delete_model_version(name, version)
    assert champion(store, name) is None and champion_model(store, name) is None
    second = register_model(store, model, prompts, name)
    client(store).delete_registered_model(name)
    assert champion(store, name) is None
    third = register_model(store, model, prompts, name)
    promote(store, name, third)
    assert (second, third) == ("2", "1") and champion_model(store, name) is not None


def test_a_model_whose_run_and_logged_model_were_deleted_is_loaded(
    store: TrackingStore, run: str, model: SleepModel, prompts: npt.NDArray[np.int64]
) -> None:
    version = register(store, run, model, "sleep-orphan", prompts, N, {})
    promote(store, "sleep-orphan", version)
    (logged,) = client(store).search_logged_models([store.experiment_id], f"source_run_id = '{run}'")
    client(store).delete_logged_model(logged.model_id)
    client(store).delete_run(run)
    assert champion_model(store, "sleep-orphan") is not None


def test_errors_of_a_server_are_those_that_load_names(
    make_root: MakeRoot, tmp_path: Path, model: SleepModel, prompts: npt.NDArray[np.int64],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(tracking, "PROBE_SECONDS", int(scaled()))
    with server(make_root(tmp_path), port) as send:
        store = open_store(tmp_path)
        promote(store, NAME, register_model(store, model, prompts))
        assert answers(load(f"models:/{NAME}@champion"), prompts) == answers(model, prompts)
        for missing in (f"{NAME}@nobody", f"{NAME}/9", "it's@one", "nobody/1"):
            with pytest.raises(FileNotFoundError, match="no such model"):
                load(f"models:/{missing}")
        shutil.rmtree(tmp_path / "artifacts")
        with pytest.raises(FileNotFoundError, match="files of version 1 are missing"):
            load(f"models:/{NAME}@champion")
        with pytest.raises(ChampionUnavailable, match="champion v1"):
            champion_model(store, NAME)
        send(signal.SIGKILL)
    monkeypatch.setattr(tracking, "PROBE_SECONDS", 1)
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}"):
        load(f"models:/{NAME}@champion")
