"""MLflow runs: one for each identity, with no duplicate points in their learning curves.

Every function takes its store as an argument and leaves MLflow's global state (tracking URI, active run) alone, so
threads can use this module concurrently. Only `first_contact` changes it, one thread at a time: requests of other
threads have its short limits meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from datagen.files import locked
from datagen.storage import in_store, move
from sleepmodel.tracking.locations import (
    ARTIFACTS,
    absolute_uri,
    check_database,
    correct_locations,
    is_database,
    sqlite_file,
    sqlite_uri,
    store_command,
)
from sleepmodel.tracking.provenance import COMMIT_TAG, DIRTY_TAG, environment
from sleepmodel.tracking.redact import redacted
from sleepmodel.training.progress import Progress

IDENTITY, PROCESS, ROOT = "sleepmodel.identity", "sleepmodel.process", "sleepmodel.root"
ROOT_ID = "root-id"  # the file that names a root
PARENT, EXPERIMENT = "mlflow.parentRunId", "sleepmodel"
CURVE = ("step", "loss", "accuracy", "grad_norm", "tokens_per_second", "rate", "skipped", "trace_loss")
PROBE_SECONDS = 5
RETRY_SECONDS = 60.0

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow's defaults wait up to half an hour for a server that is down
for _limit, _value in (("TIMEOUT", "30"), ("MAX_RETRIES", "2"), ("BACKOFF_FACTOR", "1")):
    os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{_limit}", _value)
# otherwise MLflow prints two lines at the end of each run on a server
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
for _noisy in ("mlflow", "alembic"):
    logging.getLogger(_noisy).setLevel(logging.WARNING)


@dataclass(frozen=True)
class TrackingStore:
    """An MLflow tracking store with its registry, and an experiment in it. Can be pickled and sent to workers.

    uri: left out of the repr, as it may hold a password.
    root: names the root whose runs are meant; "" is that of the root under which the store's database lies.
    """

    uri: str = field(repr=False)
    experiment_id: str
    root: str = ""


def tracking_uri(root: str | Path) -> str:
    """$MLFLOW_TRACKING_URI if set, else a SQLite database under `root`. The path of a database is made absolute, as
    the processes of a run have different working directories. Raises ValueError if the root is in an object store, if
    its name is not UTF-8, and for a database in memory."""
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{str(root)!r}: is not UTF-8, as Ray and MLflow need it: rename it, or use another") from None
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return absolute_uri(uri)
    if "://" in str(root):
        raise ValueError(
            f"{root}: an object store cannot hold an MLflow database; set MLFLOW_TRACKING_URI to an MLflow server "
            "or to a database that all nodes can reach"
        )
    return sqlite_uri(Path(root) / "mlflow.db")


def open_store(root: Path, experiment: str = EXPERIMENT) -> TrackingStore:
    """Open the store and the experiment, or create them. Call it in the driver, before workers use the store.

    Without a server, artifacts go to <root>/mlartifacts. If the root was moved there since, the store is told so. Roots
    that share a store have runs of their own. Raises ConnectionError if the store cannot be used, ValueError if the
    experiment was deleted.
    """
    uri = tracking_uri(root)
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    of_root = "" if file and file.parent.resolve() == root.resolve() else _root_id(root)
    with _alone_in(file), first_contact(uri):
        client = MlflowClient(uri, uri)
        known = client.get_experiment_by_name(experiment)
        if is_database(uri):
            correct_locations(uri, root, experiment)
        if known is None:
            # MLflow's default is relative to the working directory, which differs between processes
            artifacts = None if _is_server(uri) else (root.absolute() / ARTIFACTS).as_uri()
            return TrackingStore(uri, client.create_experiment(experiment, artifacts), of_root)
    if known.lifecycle_stage == LifecycleStage.DELETED:
        raise ValueError(
            redacted(f"MLflow store {uri}: the experiment {experiment!r} was deleted. Restore it with its runs: ")
            + store_command(uri, "-m", "mlflow", "experiments", "restore", "--experiment-id", known.experiment_id)
        )
    return TrackingStore(uri, known.experiment_id, of_root)


@contextmanager
def _alone_in(database: Path | None) -> Iterator[None]:
    """One process at a time: of two that make the tables of a new SQLite database, or bring old ones up to date, one
    fails. database: its file; None where the store is a server, which does that itself."""
    with ExitStack() as held:
        if database is not None:
            with suppress(OSError):  # SQLite writes beside its file too, and says why it cannot
                held.enter_context(locked(database))
        yield


def _root_id(root: Path) -> str:
    """A name for the root, in a file under it, so that it keeps its runs where it is moved."""
    file = root / ROOT_ID
    if not file.exists():
        fresh = file.with_name(f".{ROOT_ID}.{uuid4().hex}.tmp")
        root.mkdir(parents=True, exist_ok=True)
        fresh.write_text(uuid4().hex)
        if in_store(file):
            move(fresh, file)
        else:
            try:
                os.link(fresh, file)
                fresh.unlink()
            except FileExistsError:  # of two processes that begin here at once, the first gives the name
                fresh.unlink()
            except OSError:  # a file system without links, as of a mounted bucket
                fresh.replace(file)
    return file.read_text()


def find_moved_artifacts(root: Path) -> None:
    """Make the database under `root`, if there is one, name the present location of its artifacts, also where no
    pipeline will open it: for MLflow's own commands."""
    uri = tracking_uri(root)
    file = sqlite_file(uri)
    if file and os.access(file, os.W_OK):
        with first_contact(uri):
            correct_locations(uri, root, EXPERIMENT)


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def client_of(store: TrackingStore) -> MlflowClient:
    return MlflowClient(store.uri, store.uri)


@contextmanager
def first_contact(uri: str) -> Iterator[None]:
    """Fail fast at the first request: MLflow would retry for minutes if a server or database is down. Raises
    ConnectionError in place of MLflow's exception."""
    try:
        with _short_limits():
            check_database(uri, PROBE_SECONDS)
            yield
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        reason = getattr(error, "orig", None) or error  # SQLAlchemy's own text has a link and the statement
        raise ConnectionError(
            redacted(f"MLflow store {uri} cannot be used: {reason}. Start this server or repair this database, or set ")
            + "MLFLOW_TRACKING_URI to another one, or unset it to use a SQLite database under the root"
        ) from None  # MLflow's exception holds the address with its secrets


@contextmanager
def _short_limits() -> Iterator[None]:
    """MLflow reads its limits from the environment, which all threads share: one thread at a time changes it."""
    limits = {"MLFLOW_HTTP_REQUEST_TIMEOUT": str(PROBE_SECONDS), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with _limits_changed:
        before = {name: os.environ.get(name) for name in limits}
        os.environ.update(limits)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


_limits_changed = threading.RLock()


def start_run(
    store: TrackingStore,
    name: str,
    identity: str,
    parent: str | None,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> str:
    """Reopen the run of an identity, or create it if there is none. Returns its id.

    parent: id of the run that it is nested under; params: nested dicts become dotted names, and values strings, of
    which MLflow keeps 6,000 characters; tags: a new run also has those of its environment. Raises
    MlflowException if a parameter was logged before with another value.
    """
    client = client_of(store)
    own_tags = {**tags, **({ROOT: store.root} if store.root else {})}
    run_id = find_run(store, identity)
    if run_id is None:
        nested = {PARENT: parent} if parent else {}
        all_tags = {**environment(), **own_tags, **nested, IDENTITY: identity}
        run_id = client.create_run(store.experiment_id, run_name=name, tags=all_tags).info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    client.log_batch(
        run_id,
        params=[Param(key, value) for key, value in _flat(params).items()],
        tags=[RunTag(key, value) for key, value in own_tags.items()],
    )
    return str(run_id)


def find_run(store: TrackingStore, identity: str) -> str | None:
    """The id of the run of an identity, the oldest if there are several; None if there is none. Does not reopen it."""
    wanted = f"tags.`{IDENTITY}` = '{identity}'"
    found = client_of(store).search_runs([store.experiment_id], wanted, order_by=["start_time ASC"])
    runs = sorted((run for run in found if _is_of(store, run)), key=lambda run: ROOT not in run.data.tags)
    return runs[0].info.run_id if runs else None


def _is_of(store: TrackingStore, run: Run) -> bool:
    """Whether a run is not of another root. One that names none may be of any."""
    return run.data.tags.get(ROOT, "") in ("", store.root)


def commit_of_run(store: TrackingStore, identity: str) -> str:
    """The commit of the code that made the run of an identity, with "-dirty" appended if the code had uncommitted
    changes; "" if there is no such run, or its code was not in a git checkout."""
    run_id = find_run(store, identity)
    tags = client_of(store).get_run(run_id).data.tags if run_id else {}
    dirty = "-dirty" if tags.get(DIRTY_TAG) == "true" else ""
    return tags[COMMIT_TAG] + dirty if COMMIT_TAG in tags else ""


def end_run(store: TrackingStore, run_id: str, status: str) -> None:
    """End a run. status: FINISHED, FAILED or KILLED."""
    client_of(store).set_terminated(run_id, status)


def end_open_runs(store: TrackingStore, status: str, of: Callable[[str], bool]) -> None:
    """End the open runs of processes, and those nested in runs of theirs. of: whether a process is among them, given
    the tag PROCESS of a run."""
    client, is_open = client_of(store), "attributes.status = 'RUNNING'"

    def process(run: Run) -> str | None:
        tags = run.data.tags
        if PROCESS in tags or PARENT not in tags:
            return tags.get(PROCESS)
        parent = f"attributes.run_id = '{tags[PARENT]}'"  # get_run would fail where it was removed by `mlflow gc`
        found = client.search_runs([store.experiment_id], parent, ViewType.ALL, max_results=1)
        return process(found[0]) if found else None

    page = client.search_runs([store.experiment_id], is_open)
    runs = list(page)
    while page.token:
        page = client.search_runs([store.experiment_id], is_open, page_token=page.token)
        runs += page
    for run in filter(partial(_is_of, store), runs):
        owner = process(run)
        if owner is not None and of(owner):
            client.set_terminated(run.info.run_id, status)


def log_metrics(
    store: TrackingStore, run_id: str, metrics: Mapping[str, float], step: int, milliseconds: int | None = None
) -> None:
    """Log metrics at a step, which is the number of training tokens in all our runs.

    milliseconds: since 1970; None is now. A point that is logged twice with the same time is stored once.
    """
    when = _now() if milliseconds is None else milliseconds
    points = [Metric(name, float(value), when, step) for name, value in metrics.items()]
    client_of(store).log_batch(run_id, metrics=points)


def _now() -> int:
    return int(time.time() * 1000)


def log_artifact(store: TrackingStore, run_id: str, path: Path, folder: str | None = None) -> None:
    """Copy a file or directory to the artifacts of a run, under `folder`; None is their top level."""
    client_of(store).log_artifact(run_id, str(path), folder)


class ProgressLog:
    """Logs the learning curve of a run, over training tokens. Points that an earlier process logged are not repeated.

    A store that does not answer neither blocks the training nor loses a point: the points are sent with a later report.
    """

    def __init__(self, store: TrackingStore, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.waiting: list[tuple[Progress, int]] = []  # reports, each with its time in milliseconds
        self._logged: set[int] | None = None  # steps that the store has; None: not known yet
        self._silent_until = 0.0

    def log(self, at: Progress) -> None:
        """Log a report and all that are waiting. If the store does not answer, keep them and do not try again for
        RETRY_SECONDS."""
        self.waiting.append((at, _now()))
        if time.monotonic() < self._silent_until:
            return
        try:
            self.send()
        except MlflowException as error:
            self._silent_until = time.monotonic() + RETRY_SECONDS
            print(
                redacted(f"MLflow does not answer; {len(self.waiting)} points are kept for later: {error!s:.300}"),
                flush=True,
            )

    def send(self) -> None:
        """Log all waiting reports. Raises MlflowException, and keeps the rest, if the store does not answer."""
        if self._logged is None:
            points = client_of(self.store).get_metric_history(self.run_id, "step")
            self._logged = {int(point.value) for point in points}
        while self.waiting:
            at, when = self.waiting[0]
            if at.step not in self._logged:
                # a request that failed may have been stored: with the same time it is the same point
                values = {name: getattr(at, name) for name in CURVE if getattr(at, name) is not None}
                log_metrics(self.store, self.run_id, values, at.tokens, when)
                self._logged.add(at.step)
            self.waiting.pop(0)


def send_curve(store: TrackingStore, run_id: str, history: list[Progress]) -> None:
    """Log the points of a finished curve that the store lacks. Raises ConnectionError if the store does not answer."""
    log = ProgressLog(store, run_id)
    log.waiting = [(at, _now()) for at in history]
    with as_connection_error(store):
        log.send()


@contextmanager
def mlflow_may_fail() -> Iterator[None]:
    """A trial of a search is not lost, and not run again, for a run of MLflow that cannot be opened or ended: the
    pipeline ends those that stay open."""
    try:
        yield
    except MlflowException as error:
        print(redacted(f"MLflow failed, and a trial goes on without its run: {error!s:.300}"), flush=True)


@contextmanager
def as_connection_error(store: TrackingStore) -> Iterator[None]:
    """Raise ConnectionError in place of MLflow's exception if a server does not answer."""
    try:
        yield
    except MlflowException as error:
        if not isinstance(error.__cause__ or error.__context__, RequestException):
            raise
        raise ConnectionError(
            redacted(f"MLflow store {store.uri} does not answer any more: {error!s:.300}. ")
            + "All results so far are kept: start the server and run the same command again"
        ) from None


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value)
    return flat
