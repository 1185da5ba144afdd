"""The MLflow model registry: register a model as code and safetensors, and find one by alias or version."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType
from requests.exceptions import RequestException

import datagen.files
from datagen.storage import as_path
from datagen.tokenizer import Tokenizer
from sleepmodel.model import SleepModel
from sleepmodel.serialization.model_dir import load_directory, save
from sleepmodel.tracking import pyfunc
from sleepmodel.tracking.locations import artifact_path, sqlite_file, store_command, under_root
from sleepmodel.tracking.redact import redacted
from sleepmodel.tracking.runs import TrackingStore, client_of, first_contact, tracking_uri

CHAMPION = "champion"
WEIGHTS_FOLDER = "model"
# shipped with a registered model: datagen too, as sleepmodel writes its files by datagen.files
PACKAGES = (Path(__file__).parents[1], Path(datagen.files.__file__).parent)


@dataclass(frozen=True)
class Version:
    """A version of a registered model. tags: those that it was registered with."""

    name: str
    version: str
    tags: dict[str, str]


class ChampionUnavailable(RuntimeError):
    """The champion of a registered model cannot be loaded."""


def register(
    store: TrackingStore,
    run_id: str,
    model: SleepModel,
    name: str,
    example: npt.NDArray[np.int64],
    answers: int,
    tags: Mapping[str, str],
) -> str:
    """Log a model to its run and register it. Returns the new version, or the version that this run already has.

    name: of the registered model; example: prompts int64 [n, T], stored as the input example; answers: the number of
    tokens that answer each of them, the default n of the pyfunc.
    Raises ValueError if the model cannot answer the example.
    """
    pyfunc.check_prompts(model.config, example, answers)
    client = client_of(store)
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
    if known:
        return str(known[0].version)
    # a process that was killed here has left one
    left = client.search_logged_models([store.experiment_id], f"source_run_id = '{run_id}' AND name = '{name}'")
    logged = left[0] if left else client.create_logged_model(store.experiment_id, name, run_id)
    with tempfile.TemporaryDirectory() as directory:
        card = Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)
        _save_pyfunc(Path(directory), card, model, example, answers)
        client.log_model_artifacts(logged.model_id, f"{directory}/pyfunc")
    client.finalize_logged_model(logged.model_id, "READY")
    outputs = client.get_run(run_id).outputs
    if outputs is None or logged.model_id not in [output.model_id for output in outputs.model_outputs]:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    # by location: MLflow would look up models:/<id> in its global store
    version = client.create_model_version(name, logged.artifact_location, run_id, dict(tags), model_id=logged.model_id)
    return str(version.version)


def _save_pyfunc(directory: Path, card: Model, model: SleepModel, example: npt.NDArray[np.int64], answers: int) -> None:
    """Write the pyfunc to directory/pyfunc: weights, PACKAGES, and what they need. Nothing in it is a pickle."""
    save(model, directory / WEIGHTS_FOLDER)
    mlflow.pyfunc.save_model(
        directory / "pyfunc",
        mlflow_model=card,
        python_model=pyfunc.__file__,
        artifacts={WEIGHTS_FOLDER: str(directory / WEIGHTS_FOLDER)},
        code_paths=[str(package) for package in PACKAGES],
        signature=_signature(model.tokenizer, answers),
        input_example={"tokens": example},
        pip_requirements=_requirements(model.tokenizer),
    )


def _signature(tokenizer: Tokenizer | None, answers: int) -> ModelSignature:
    # for integers, MLflow would cast 0.9 to 0 before the model could refuse it
    inputs: list[ColSpec | TensorSpec] = [ColSpec(AnyType(), "tokens", required=tokenizer is None)]  # type: ignore[no-untyped-call]
    options = [ParamSpec("n", "integer", answers)]
    if tokenizer is not None:
        inputs.append(ColSpec(AnyType(), "text", required=False))  # type: ignore[no-untyped-call]
        # also without a template, as MLflow would drop an option that it does not know
        options.append(ParamSpec("chat", "boolean", False))
    return ModelSignature(
        Schema(inputs), Schema([TensorSpec(np.dtype(np.int64), (-1, -1), "answer")]), ParamSchema(options)
    )


def _requirements(tokenizer: Tokenizer | None) -> list[str]:
    """What the pyfunc imports, with versions."""
    packages = ["numpy", "safetensors", "torch"]
    if tokenizer is not None:
        packages += ["tokenizers"] if tokenizer.chat_template is None else ["tokenizers", "jinja2"]
    # without the local part, as in 2.13.0+cpu: package indexes do not have those versions
    return [f"{package}=={metadata.version(package).split('+')[0]}" for package in packages]


def promote(store: TrackingStore, name: str, version: str) -> None:
    """Set the alias `champion` to a version."""
    client_of(store).set_registered_model_alias(name, CHAMPION, version)


def promote_if(
    store: TrackingStore, name: str, version: str, judge: Callable[[Version | None], tuple[bool, str]]
) -> tuple[bool, str]:
    """Promote a version if `judge`, given the present champion, says so. Returns its verdict and its reason.

    A judgement may take minutes: where another process has promoted a version meanwhile, `judge` is asked again.
    """
    while True:
        present = champion(store, name)
        won, reason = judge(present)
        if champion(store, name) == present:
            if won:
                promote(store, name, version)
            return won, reason


def champion(store: TrackingStore, name: str) -> Version | None:
    """The champion of a registered model; None if there is no such model or alias."""
    found = _by_alias(client_of(store), name, CHAMPION)
    return Version(name, str(found.version), dict(found.tags)) if found else None


def champion_model(store: TrackingStore, name: str) -> SleepModel | None:
    """The champion, loaded on the CPU in evaluation mode; None if there is none.

    Raises ChampionUnavailable if its files are missing, damaged, or of a model that this code cannot build, and
    ConnectionError if the store does not answer.
    """
    client = client_of(store)
    found = _by_alias(client, name, CHAMPION)
    if found is None:
        return None
    location = client.get_model_version_download_uri(name, found.version)
    try:
        with _local(store.uri, location) as directory:
            return load_directory(directory)
    except (FileNotFoundError, ValueError) as error:
        code = f"import mlflow; mlflow.MlflowClient().delete_registered_model_alias({name!r}, {CHAMPION!r})"
        command = store_command(store.uri, "-c", code)
        raise ChampionUnavailable(
            f"champion v{found.version} of {name} cannot be loaded from {redacted(location)}: {error}. Restore these "
            f"files, or let the next model become the champion without a comparison: {command}"
        ) from error


@contextmanager
def model_files(uri: str) -> Iterator[Path]:
    """Yields the directory of config and weights of "models:/<name>@<alias>" or "models:/<name>/<version>": where they
    lie, or a temporary download.

    The store is $MLFLOW_TRACKING_URI if set, else the SQLite database under $SLEEPMODEL_ROOT, else under ./runs. Raises
    ValueError for another form of URI, FileNotFoundError if there is no such model, and ConnectionError if the store
    does not answer.
    """
    store_uri, location, version = _found(uri)
    with ExitStack() as held:
        try:
            directory = held.enter_context(_local(store_uri, location))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{uri}: the files of version {version} are missing: {error}") from error
        yield directory


def model_directory(uri: str) -> Path:
    """As `model_files`, for a model whose files every worker can read. Raises ValueError if they are not on a
    disk."""
    _, location, version = _found(uri)
    if artifact_path(location) is None:
        raise ValueError(
            f"{uri}: the files of version {version} are at {redacted(location)}, not on a disk: download them, as with "
            "`mlflow artifacts download`, and give their directory"
        )
    with model_files(uri) as directory:
        return directory


def _found(uri: str) -> tuple[str, str, str]:
    """The store, the location of the files, and the version that a "models:/" URI names. Raises as `model_files`."""
    parts = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
    if parts is None:
        raise ValueError(f"{uri!r}: must be models:/<name>@<alias> or models:/<name>/<version>")
    name, alias, number = parts.groups()
    root = as_path(os.environ.get("SLEEPMODEL_ROOT") or "runs")
    store_uri = tracking_uri(root)
    help_text = "set SLEEPMODEL_ROOT to the pipeline's root, or MLFLOW_TRACKING_URI to its MLflow store"
    database = sqlite_file(store_uri)
    if database and not database.is_file():
        raise FileNotFoundError(f"{uri}: the MLflow database {redacted(store_uri)} does not exist; {help_text}")
    with first_contact(store_uri):
        client = MlflowClient(store_uri, store_uri)
        found = _by_alias(client, name, alias) if alias else _by_number(client, name, number)
        if found is None:
            raise FileNotFoundError(f"{uri}: the MLflow store {redacted(store_uri)} has no such model; {help_text}")
        location = client.get_model_version_download_uri(name, found.version)
    return store_uri, under_root(location, database.parent if database else root), str(found.version)


def _by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    return _if_there(lambda: client.get_model_version_by_alias(name, alias))


def _by_number(client: MlflowClient, name: str, number: str) -> ModelVersion | None:
    return _if_there(lambda: client.get_model_version(name, number))


def _if_there(get: Callable[[], ModelVersion]) -> ModelVersion | None:
    try:
        return get()
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias or version
            return None
        raise


@contextmanager
def _local(uri: str, location: str) -> Iterator[Path]:
    """The directory of config and weights in a version's files at `location`; a temporary copy where they are not on a
    disk. Raises FileNotFoundError if they are not there, ConnectionError if they cannot be downloaded."""
    if local := artifact_path(location):
        directory = local / "artifacts" / WEIGHTS_FOLDER
        if not directory.is_dir():
            raise FileNotFoundError(f"{directory} does not exist; it was deleted or moved")
        yield directory
        return
    where = f"{location}/artifacts/{WEIGHTS_FOLDER}"
    with tempfile.TemporaryDirectory() as temporary:
        try:
            if not list_artifacts(where, tracking_uri=uri):
                raise FileNotFoundError(f"{redacted(where)} does not exist; it was deleted or moved")
            copy = download_artifacts(where, tracking_uri=uri, registry_uri=uri, dst_path=temporary)
        except (MlflowException, RequestException, ImportError) as error:
            raise ConnectionError(redacted(f"{where} cannot be downloaded: {error!s:.500}; try again")) from None
        yield Path(copy)
