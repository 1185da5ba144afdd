"""Ray and MLflow, as the stages of a running pipeline use them."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
import torch
from ray.exceptions import GetTimeoutError

from datagen.cluster import connect_to_ray
from datagen.files import replacing
from datagen.ray_tasks import LOOK_SECONDS, WaitForRoom, raising_io_errors
from datagen.storage import as_path, check_reachable, in_store, local_copy
from pipelines.config.experiment import Experiment
from pipelines.engine.locks import LOCKS
from pipelines.engine.processes import has_ended, this_process
from pipelines.engine.scheduler import Observer
from pipelines.engine.signals import keep_sigterm
from pipelines.engine.stage import Stage
from pipelines.runtime.devices import describe_kernels, look_at_gpus, rules
from pipelines.runtime.nodes import ANSWER_SECONDS, alive, ask
from pipelines.runtime.resources import ResourcePlan, plan_resources_on_ray, worker_bytes
from pipelines.runtime.user_code import runtime_env
from sleepmodel.tracking.runs import (
    PROCESS,
    TrackingStore,
    as_connection_error,
    commit_of_run,
    end_open_runs,
    end_run,
    log_artifact,
    log_metrics,
    open_store,
    send_curve,
    start_run,
)
from sleepmodel.training.progress import Progress

T = TypeVar("T")
RETRIES = 3  # of a task whose process or node dies
FINGERPRINT = "fingerprint"  # the field in a generate stage's config that names its dataset


@dataclass
class Services(Observer):
    """Ray, MLflow and the pipeline's MLflow run. Stages are built with it; `connect` and `start` are called before
    any of them runs.

    resources, kernels: set by `connect`; kernels: what computes the fast weights on each kind of device, in words.
    """

    experiment: Experiment
    root: Path
    resources: ResourcePlan = field(init=False)
    kernels: list[str] = field(init=False)
    _store: TrackingStore | None = field(default=None, init=False)
    _parent: str | None = field(default=None, init=False)

    @property
    def store(self) -> TrackingStore:
        assert self._store is not None, "`connect` is called before stages run"
        return self._store

    @property
    def stop(self) -> Path:
        """When this file exists, the trainings of this process save and end. Every worker can see it."""
        return self.root / LOCKS / f"{socket.gethostname()}-{os.getpid()}.stop"

    def connect(self, stages: Sequence[Stage]) -> None:
        """Connect to MLflow and to Ray: $RAY_ADDRESS, else a running local Ray, else a new one. stages: those to run.
        Raises ValueError where the cluster can not hold their trainings, or torch cannot use its GPUs."""
        self._store = open_store(self.root)
        with as_connection_error(self._store):
            end_open_runs(self._store, "KILLED", lambda process: has_ended(json.loads(process)))
        with keep_sigterm():
            connect_to_ray(logging_level=logging.ERROR, runtime_env=runtime_env(self.experiment))
        self.resources = plan_resources_on_ray(self.experiment.scale, worker_bytes(self.experiment, stages))
        uses = rules(self.experiment, self.resources.scale)
        self.kernels = look_at_gpus(uses) if self.resources.scale.gpu else describe_kernels(uses, torch.device("cpu"))
        check_shared_root(self.root)

    def start(self, identity: str) -> None:
        """Open the MLflow run that holds the stages' runs. identity: of the plan."""
        tags = {"sleepmodel.kind": "pipeline", PROCESS: json.dumps(this_process())}
        self._parent = start_run(self.store, self.experiment.name, identity, None, {}, tags)

    def close(self, status: str) -> None:
        """End the open MLflow runs of this process: of the pipeline, its stages and trials. status: FINISHED, FAILED or
        KILLED."""
        me = json.dumps(this_process())
        end_open_runs(self.store, status, lambda process: process == me)

    def started(self, stage: Stage) -> None:
        """Open the stage's run."""
        self.run_of(stage)

    def finished(self, stage: Stage, seconds: float) -> None:
        """Log the stage's resolved config and end its run."""
        self._log_file(self.run_of(stage), stage.output(self.root) / "config.json")
        self.log(stage, {"seconds": seconds}, 0)

    def end(self, stage: Stage, status: str) -> None:
        """End a stage's run: FINISHED, FAILED or KILLED."""
        end_run(self.store, self.run_of(stage), status)

    def log_report(self, directory: Path) -> None:
        """Log the report and its pictures as artifacts of the pipeline's run."""
        assert self._parent is not None
        for file in directory.iterdir():
            if file.suffix in (".html", ".md", ".png"):
                self._log_file(self._parent, file, "report")

    def _log_file(self, run: str, file: Path, folder: str | None = None) -> None:
        with local_copy(file) as copy:
            log_artifact(self.store, run, copy, folder)

    def run_of(self, stage: Stage, chosen: dict[str, object] | None = None) -> str:
        """Open the MLflow run of a stage and return its id; the same run after a restart. Its parameters are the
        stage's config, and `chosen`: what is known only after the stage's inputs."""
        assert isinstance(stage.config, dict)
        configs = [cast(dict[str, str], dependency.config) for dependency in stage.inputs]
        datasets = [config[FINGERPRINT] for config in configs if FINGERPRINT in config]
        params = {
            name: asdict(v) if is_dataclass(v) and not isinstance(v, type) else v for name, v in stage.config.items()
        }
        params |= chosen or {}
        tags = {"sleepmodel.kind": "stage", "sleepmodel.dataset": ", ".join(datasets)}
        tags[PROCESS] = json.dumps(this_process())
        return start_run(self.store, stage.name, stage.identity, self._parent, params, tags)

    def commit_of(self, stage: Stage) -> str:
        """The commit that ran a stage, with "-dirty" where files had been changed; "" where unknown."""
        return commit_of_run(self.store, stage.identity)

    def log(self, stage: Stage, metrics: dict[str, float], tokens: int) -> None:
        """Log metrics of a finished stage, at a number of training tokens."""
        log_metrics(self.store, self.run_of(stage), metrics, tokens)
        self.end(stage, "FINISHED")

    def send_curve(self, stage: Stage, history: list[Progress]) -> None:
        """Log the part of a training's curve that MLflow has missed while it did not answer. Raises ConnectionError if
        it still does not."""
        with as_connection_error(self.store):
            run = self.run_of(stage)  # a new one if it was deleted since the stage started
        send_curve(self.store, run, history)

    def map(
        self,
        function: Callable[..., T],
        calls: Sequence[tuple[object, ...]],
        cores: int,
        gpus: int = 0,
        environment: dict[str, Any] | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> list[T]:
        """Call `function` with each tuple of arguments in a Ray task of `cores` cores and `gpus` GPUs. Returns the
        results in order. environment: Ray's runtime environment of the tasks, beside the pipeline's own; watch: called
        every LOOK_SECONDS with the number of tasks that are done, and of all.

        Raises TimeoutError where the function that `room` returns does: Ray would wait for ever.
        """
        task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=RETRIES, runtime_env=environment or {})(function)
        results = [task.remote(*arguments) for arguments in calls]
        look = self.room()
        while True:
            try:
                with raising_io_errors():
                    return cast(list[T], ray.get(results, timeout=LOOK_SECONDS))
            except GetTimeoutError:
                look()
            if watch:
                done, _ = ray.wait(results, num_returns=len(results), timeout=0)
                watch(len(done), len(results))

    def room(self) -> Callable[[], None]:
        """A function to call every LOOK_SECONDS while something waits for the cluster. It raises TimeoutError if the
        cluster has been too small for a training, and so for a task of `map`, for `scale.wait_minutes`.
        """
        wait = WaitForRoom(self.resources.scale.wait_minutes)
        return lambda: wait.look(self._lacking())

    def _lacking(self) -> str:
        """Why the cluster cannot hold a training; "" if it can."""
        try:
            plan_resources_on_ray(self.resources.scale)
            return ""
        except ValueError as error:
            return str(error)


def check_shared_root(root: Path) -> None:
    """Raise ValueError, which names the node, where a node of the Ray cluster does not see files under `root`: its
    results would be lost."""
    nodes = alive()
    if len(nodes) == 1 and not in_store(root):
        return
    token = root / LOCKS / f"{socket.gethostname()}-{os.getpid()}.token"
    with replacing(token) as temporary:
        temporary.touch()
    try:
        for node, trouble in ask(nodes, _look, str(token)):
            if trouble is None:
                raise ValueError(
                    f"root = {root}: node {node['NodeManagerAddress']} of Ray did not look for it in {ANSWER_SECONDS} s"
                )
            if trouble:
                raise ValueError(
                    f"root = {root}: node {node['NodeManagerAddress']} of Ray does not see it ({trouble}): mount "
                    "one shared directory at this path on every node, or give --root s3://bucket/prefix"
                )
    finally:
        token.unlink(missing_ok=True)


def _look(token: str) -> str:
    """Why this node does not see a file; "" where it does."""
    try:
        path = as_path(token)
        check_reachable(path)
        return "" if path.exists() else "a file just written there is missing"
    except (OSError, ValueError) as error:
        return str(error)
