"""MLflow: where runs and models are kept, one run an identity, learning curves without doubled points, the registry.

Every call names its store; MLflow's global state (tracking URI, active run) is left alone, so threads may share this.
"""

from __future__ import annotations

import functools
import logging
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput, Metric, Param
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from requests.exceptions import RequestException

from sleepmodel import pyfunc
from sleepmodel.masking import masked
from sleepmodel.model import SleepModel
from sleepmodel.saving import load, save

if TYPE_CHECKING:  # at run time this module does without datagen, so that a registered model carries all it needs
    from sleepmodel.training import Progress

IDENTITY = "sleepmodel.identity"
COMMIT_TAG, DIRTY_TAG = "mlflow.source.git.commit", "sleepmodel.git.dirty"
_CODE = (":(top)*.py", ":(top)*.cpp", ":(top)pyproject.toml", ":(top)constraints.txt")
CHAMPION = "champion"
SQLITE = "sqlite:///"
CURVE = ("step", "loss", "accuracy", "grad_norm", "tokens_per_second", "rate", "skipped")
WEIGHTS_FOLDER = "model"
PROBE_SECONDS = 5
RETRY_SECONDS = 60.0

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow's own defaults wait up to half an hour for a server that has gone
for _limit, _value in (("TIMEOUT", "30"), ("MAX_RETRIES", "2"), ("BACKOFF_FACTOR", "1")):
    os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{_limit}", _value)
# else a server's runs end with two lines each in the log
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Store:
    """An MLflow tracking store and registry, and an experiment in it. Can be sent to workers. uri: not shown, as it may
    hold a password."""

    uri: str = field(repr=False)
    experiment_id: str


@dataclass(frozen=True)
class Version:
    """A version of a registered model. tags: those it was registered with."""

    name: str
    version: str
    tags: dict[str, str]


# --- the store


def tracking_uri(root: str | Path) -> str:
    """$MLFLOW_TRACKING_URI, else a SQLite database under `root`; the path of a database is made absolute, as the
    processes of a run differ in their current directory. Raises ValueError where the root can hold no database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and "://" in str(root):
        raise ValueError(
            f"{root}: a store can hold no MLflow database: set MLFLOW_TRACKING_URI to an MLflow server, or to a "
            "database that all nodes reach"
        )
    uri = uri or f"{SQLITE}{root}/mlflow.db"
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def open_store(root: Path, experiment: str = "sleepmodel") -> Store:
    """Open or create the store and the experiment; call it in the driver, before workers use the store.

    Without a server artifacts go to <root>/mlartifacts. Raises ConnectionError where no store answers.
    """
    uri = tracking_uri(root)
    with _probing(uri):
        client = MlflowClient(uri, uri)
        known = client.get_experiment_by_name(experiment)
    if known is not None:
        return Store(uri, known.experiment_id)
    # MLflow's own default is relative to the current directory, which differs between processes
    artifacts = None if _is_server(uri) else (root.absolute() / "mlartifacts").as_uri()
    return Store(uri, client.create_experiment(experiment, artifacts))


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _client(store: Store) -> MlflowClient:
    return MlflowClient(store.uri, store.uri)


@contextmanager
def _probing(uri: str) -> Iterator[None]:
    """First contact: MLflow would retry for minutes a server that is not there."""
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    before = {name: os.environ.get(name) for name in limits}
    os.environ.update(limits)
    try:
        yield
    except MlflowException as error:
        raise ConnectionError(
            masked(
                f"MLflow store {uri}: cannot be used: {error}. Start this server, or set MLFLOW_TRACKING_URI to one "
            )
            + "that runs, or unset it to use a SQLite database under the root"
        ) from None  # what MLflow raised holds the address with its secrets
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


# --- runs


def start_run(
    store: Store, name: str, identity: str, parent: str | None, params: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """The id of the one run of an identity: reopened where it exists, else made.

    parent: id of the run it is shown under; params: nested dicts become dotted names, values strings, of which MLflow
    keeps 6,000 characters; tags: of a new run, beside those of its environment. Raises MlflowException where a
    parameter was logged before with another value.
    """
    client = _client(store)
    run_id = find_run(store, identity)
    if run_id is None:
        nested = {"mlflow.parentRunId": parent} if parent else {}
        all_tags = {**environment(), **tags, **nested, IDENTITY: identity}
        run_id = client.create_run(store.experiment_id, run_name=name, tags=all_tags).info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, params=[Param(key, value) for key, value in _flat(params).items()])
    return str(run_id)


def find_run(store: Store, identity: str) -> str | None:
    """The id of the run of an identity, the oldest if there are more, as it stands."""
    wanted = f"tags.`{IDENTITY}` = '{identity}'"
    runs = _client(store).search_runs([store.experiment_id], wanted, max_results=1, order_by=["start_time ASC"])
    return runs[0].info.run_id if runs else None


def commit_of_run(store: Store, identity: str) -> str:
    """The commit of the code that made the run of an identity, "-dirty" behind it where files had been changed since;
    "" where there is no such run, or its code was in no checkout."""
    run_id = find_run(store, identity)
    tags = _client(store).get_run(run_id).data.tags if run_id else {}
    dirty = "-dirty" if tags.get(DIRTY_TAG) == "true" else ""
    return tags[COMMIT_TAG] + dirty if COMMIT_TAG in tags else ""


def end_run(store: Store, run_id: str, status: str) -> None:
    """Close a run: FINISHED, FAILED or KILLED."""
    _client(store).set_terminated(run_id, status)


def log_metrics(
    store: Store, run_id: str, metrics: Mapping[str, float], step: int, milliseconds: int | None = None
) -> None:
    """Log metrics at a step, which is a number of training tokens in all our runs; milliseconds: since 1970, None is
    now. A point that is logged again with the same time is one point."""
    when = _now() if milliseconds is None else milliseconds
    points = [Metric(name, float(value), when, step) for name, value in metrics.items()]
    _client(store).log_batch(run_id, metrics=points)


def _now() -> int:
    return int(time.time() * 1000)


def log_artifact(store: Store, run_id: str, path: Path, folder: str | None = None) -> None:
    """Copy a file or directory into a run's artifacts, under `folder`."""
    _client(store).log_artifact(run_id, str(path), folder)


class ProgressLog:
    """A run's learning curve over tokens. What an earlier process has logged of it is not logged again.

    A store that does not answer holds nothing up and loses nothing: its points wait here for a later report.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.waiting: list[tuple[Progress, int]] = []  # with their milliseconds
        self._logged: set[int] | None = None  # steps that the store has, once it was asked
        self._silent_until = 0.0

    def log(self, at: Progress) -> None:
        """Log a report and all that wait, or keep them; a store that failed is left alone for RETRY_SECONDS."""
        self.waiting.append((at, _now()))
        if time.monotonic() < self._silent_until:
            return
        try:
            self.send()
        except MlflowException as error:
            self._silent_until = time.monotonic() + RETRY_SECONDS
            print(masked(f"MLflow does not answer, {len(self.waiting)} points wait: {error!s:.300}"), flush=True)

    def send(self) -> None:
        """Log all that wait. Raises MlflowException, and keeps what is left, where the store does not answer."""
        if self._logged is None:
            points = _client(self.store).get_metric_history(self.run_id, "step")
            self._logged = {int(point.value) for point in points}
        while self.waiting:
            at, when = self.waiting[0]
            if at.step not in self._logged:
                # a call without an answer may have been heard: the same time makes it the same point
                log_metrics(self.store, self.run_id, {name: getattr(at, name) for name in CURVE}, at.tokens, when)
                self._logged.add(at.step)
            self.waiting.pop(0)


def send_curve(store: Store, run_id: str, history: list[Progress]) -> None:
    """Log what the store lacks of a finished training's curve. Raises ConnectionError where it does not answer."""
    log = ProgressLog(store, run_id)
    log.waiting = [(at, _now()) for at in history]
    with reaching(store):
        log.send()


@contextmanager
def reaching(store: Store) -> Iterator[None]:
    """Raises ConnectionError in place of MLflow's own where a server does not answer."""
    try:
        yield
    except MlflowException as error:
        if not isinstance(error.__cause__ or error.__context__, RequestException):
            raise
        raise ConnectionError(
            masked(f"MLflow store {store.uri} does not answer any more: {error!s:.300}. ")
            + "What was computed is kept: start the server and run the same command again"
        ) from None


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat


@functools.cache
def environment() -> dict[str, str]:
    """Tags that say what code and machine made a run."""
    tags = {"platform": platform.platform(), "cpus": str(os.cpu_count()), "python": platform.python_version()}
    tags |= {package: metadata.version(package) for package in ("torch", "ray", "deepspeed", "mlflow")}
    tags = {f"sleepmodel.env.{name}": value for name, value in tags.items()}
    if commit := _commit():
        # a commit does not tell what ran where files were changed since
        tags[COMMIT_TAG] = commit.removesuffix("-dirty")
        tags[DIRTY_TAG] = str(commit.endswith("-dirty")).lower()
    return tags


def _commit() -> str | None:
    """The commit that this file belongs to, with "-dirty" where its code differs; None outside a checkout."""
    here = Path(__file__)
    git = shutil.which("git")
    # an installed copy may lie in somebody else's checkout
    if git is None or not _output([git, "ls-files", here.name], here.parent):
        return None
    head = _output([git, "rev-parse", "--verify", "--quiet", "HEAD"], here.parent)
    # pages and results are written by the runs themselves
    changed = _output([git, "status", "--porcelain", "--untracked-files=no", "--", *_CODE], here.parent)
    return (head + "-dirty" if changed else head) or None


def _output(command: list[str], directory: Path) -> str:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True).stdout.strip()


# --- the registry


def register(
    store: Store,
    run_id: str,
    model: SleepModel,
    name: str,
    example: npt.NDArray[np.int64],
    answers: int,
    tags: Mapping[str, str],
) -> str:
    """Log a model with its run and register it; the new version, or the one that this run has already.

    name: of the registered model; example: prompts int64 [n, T]; answers: how many tokens answer them.
    Raises ValueError where the model cannot answer the example.
    """
    pyfunc.check_prompts(model.config, example, answers)
    client = _client(store)
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
    if known:
        return str(known[0].version)
    logged = client.create_logged_model(store.experiment_id, name, run_id)
    with tempfile.TemporaryDirectory() as directory:
        card = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
        _save_pyfunc(Path(directory), card, model, example, answers)
        client.log_model_artifacts(logged.model_id, f"{directory}/pyfunc")
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    # by place: given as models:/<id>, MLflow would look for it in the global store
    version = client.create_model_version(name, logged.artifact_location, run_id, dict(tags), model_id=logged.model_id)
    return str(version.version)


def _save_pyfunc(directory: Path, card: Model, model: SleepModel, example: npt.NDArray[np.int64], answers: int) -> None:
    """Write the pyfunc to directory/pyfunc: weights, this package, and what it needs. Nothing in it is a pickle."""
    save(model, directory / WEIGHTS_FOLDER)
    integers, matrix = np.dtype(np.int64), (-1, -1)
    mlflow.pyfunc.save_model(
        directory / "pyfunc",
        mlflow_model=card,
        python_model=pyfunc.__file__,
        artifacts={WEIGHTS_FOLDER: str(directory / WEIGHTS_FOLDER)},
        code_paths=[str(Path(__file__).parent)],
        signature=ModelSignature(
            Schema([TensorSpec(integers, matrix, "tokens")]),
            Schema([TensorSpec(integers, matrix, "answer")]),
            ParamSchema([ParamSpec("n", "integer", answers)]),
        ),
        input_example={"tokens": example},
        # a local version such as 2.13.0+cpu is in no index
        pip_requirements=[f"{p}=={metadata.version(p).split('+')[0]}" for p in ("numpy", "safetensors", "torch")],
    )


def promote(store: Store, name: str, version: str) -> None:
    """Give a version the alias `champion`."""
    _client(store).set_registered_model_alias(name, CHAMPION, version)


def champion(store: Store, name: str) -> Version | None:
    """The champion of a registered model; None where there is no such model or alias."""
    found = _by_alias(_client(store), name, CHAMPION)
    return Version(name, str(found.version), dict(found.tags)) if found else None


def champion_model(store: Store, name: str) -> SleepModel | None:
    """The champion's model, on the CPU in evaluation mode; None where there is none."""
    client = _client(store)
    found = _by_alias(client, name, CHAMPION)
    return load(_download(store.uri, client, found)) if found else None


def download_model(uri: str) -> Path:
    """The local directory with the config and weights of "models:/<name>@<alias>" or "models:/<name>/<version>".

    The store is $MLFLOW_TRACKING_URI, else the SQLite database under $SLEEPMODEL_ROOT, else under ./runs. Raises
    ValueError on another URI, FileNotFoundError where there is no such model, ConnectionError as `open_store`.
    """
    parts = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if parts is None:
        raise ValueError(f"{uri!r}: must be models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, number = parts.groups()
    store_uri = tracking_uri(os.path.expanduser(os.environ.get("SLEEPMODEL_ROOT") or "runs"))
    help_text = "set SLEEPMODEL_ROOT to the pipeline's root, or MLFLOW_TRACKING_URI to its MLflow store"
    if store_uri.startswith(SQLITE) and not Path(store_uri.removeprefix(SQLITE)).is_file():
        raise FileNotFoundError(f"{uri}: there is no MLflow database {masked(store_uri)}; {help_text}")
    with _probing(store_uri):
        client = MlflowClient(store_uri, store_uri)
        found = _by_alias(client, name, alias) if alias else _by_number(client, name, number)
    if found is None:
        raise FileNotFoundError(f"{uri}: the MLflow store {masked(store_uri)} has no such model; {help_text}")
    return _download(store_uri, client, found)


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    models = client.search_registered_models(f"name = '{name}'")
    number = models[0].aliases.get(alias) if models else None
    return client.get_model_version(name, number) if number else None


def _by_number(client: MlflowClient, name: str, number: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and version_number = {number}")
    return versions[0] if versions else None


def _download(uri: str, client: MlflowClient, version: ModelVersion) -> Path:
    """Where the model's own files lie, after a download to a temporary directory where the store is a server."""
    place = client.get_model_version_download_uri(version.name, version.version)
    return Path(download_artifacts(f"{place}/artifacts/{WEIGHTS_FOLDER}", tracking_uri=uri, registry_uri=uri))
