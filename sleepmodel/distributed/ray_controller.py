"""Ray Train's controller in a process that several trainings use in turn, as its start and its imports take seconds.
Trainings that run in threads of one process have one each."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

import ray
from ray._common.constants import RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR
from ray._private.services import get_webui_url_from_internal_kv
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController

DIED = (ActorDiedError, OutOfMemoryError)  # what a WarmTrainer raises if its controller died, and its workers with it
# by Ray and job: the controllers that this process has started and that drive no training
_idle: dict[tuple[str, str], list[Any]] = {}
_cleaners: list[Any] = []  # of this process, if it is a controller: Ray Train's actor that frees what a dead one held


class _Controller:
    """An actor that drives one training after the other, where Ray Train starts one for each."""

    def __init__(self) -> None:
        self.controller: TrainController | None = None

    async def lives(self) -> bool:
        """True, unless this process has died."""
        return True

    async def run(self, settings: dict[str, str], options: dict[str, Any]) -> Result:
        """Drive a training to its end. settings: the environment variables of Ray Train."""
        os.environ.update(settings)
        self.controller = TrainController(**options)
        await self.controller.run()
        result = self.controller.get_result()
        self.controller = None
        return result

    async def abort(self) -> None:
        """End the training, if there is one, and this process with it."""
        if self.controller:
            await self.controller.abort()


class _KeepCleaner(PlacementGroupCleanerCallback):
    """Keeps the cleaner for the controller's next training. It ends by itself when the controller does.

    It asks the dashboard whether the controller lives. A Ray without one names the address that it would have: there
    the dashboard of another Ray may answer, which knows no such controller, and the cleaner would end the training."""

    def after_controller_start(self, train_run_context: Any) -> None:
        if not get_webui_url_from_internal_kv():
            return
        if not _cleaners:
            super().after_controller_start(train_run_context)
            _cleaners.append(self._cleaner)
        self._cleaner, self._controller_actor_id = _cleaners[0], ray.get_runtime_context().get_actor_id()

    def after_worker_group_start(self, worker_group: Any) -> None:
        if self._cleaner:
            super().after_worker_group_start(worker_group)

    def _stop_cleaner(self) -> None:
        pass


class WarmTrainer(TorchTrainer):
    """A TorchTrainer whose controller stays for later trainings that this process starts."""

    def _create_default_callbacks(self) -> list[Any]:
        # that of Ray Data starts a process, and we read without Ray Data
        mine = (DatasetsCallback, PlacementGroupCleanerCallback)
        found = super()._create_default_callbacks()  # type: ignore[misc]  # typed as the old TorchTrainer
        return [_KeepCleaner(), *(each for each in found if not isinstance(each, mine))]

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        # the controller has them from `_create_default_callbacks`; the config goes to all workers, which would import
        # what they need, such as MLflow
        options["train_run_context"].run_config.callbacks = []
        context = ray.get_runtime_context()
        idle = _idle.setdefault((context.get_session_name(), context.get_job_id()), [])
        controller = _take(idle) or _start()
        if threading.current_thread() is threading.main_thread():  # as Ray does: Ctrl-C aborts
            self._register_sigint_handler(controller)  # type: ignore[attr-defined]
        result: Any = ray.get(controller.run.remote(get_env_vars_to_propagate(), options))
        idle.append(controller)  # not one that died, or raised
        return result


def _take(idle: list[Any]) -> Any:
    """One of the idle controllers that still lives; None if there is none."""
    with suppress(IndexError):  # of an empty list; other threads take from it too
        while True:
            controller = idle.pop()
            with suppress(RayActorError, OutOfMemoryError):  # it died since
                ray.get(controller.lives.remote())
                return controller
    return None


def _start() -> Any:
    context = ray.get_runtime_context()
    actor: Any = ray.remote(
        num_cpus=0,
        label_selector={"ray.io/node-id": context.get_node_id()},
        # where several Rays run on a machine, the cleaner would ask another one whether the controller lives
        runtime_env={"env_vars": {"RAY_ADDRESS": context.gcs_address, RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0"}},
    )(_Controller)
    return actor.remote()
