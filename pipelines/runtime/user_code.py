"""The user's own tasks and mixers, which a config names as "module:Class"."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from datagen.user_code import is_path
from pipelines.config.experiment import Experiment

PACKAGES = ("datagen", "sleepmodel", "pipelines")


def import_from_working_directory() -> None:
    """Let this process import modules from the working directory, which is not on a script's path. It comes last, so
    that no file there hides another module."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


def runtime_env(experiment: Experiment) -> dict[str, Any] | None:
    """As `mixers_env`, of the mixers and the task of an experiment."""
    models = [experiment.model, *map(experiment.variant_model, experiment.variants)]
    own_task = type(experiment.task).__module__.partition(".")[0] not in PACKAGES
    return _environment() if own_task else mixers_env(mixer for model in models for mixer in model.mixers)


def mixers_env(mixers: Iterable[str]) -> dict[str, Any] | None:
    """The runtime environment in which Ray's workers can import the user's own among these mixers; None if none is.

    Workers get this process's PYTHONPATH and working directory. Workers on other nodes must see it too: with
    `ray job submit --working-dir .`, Ray sends a copy to every node.
    """
    return _environment() if any(map(is_path, mixers)) else None


def _environment() -> dict[str, Any]:
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([os.getcwd(), *([given] if given else []), "${PYTHONPATH}"])
    return {"env_vars": {"PYTHONPATH": path}}
