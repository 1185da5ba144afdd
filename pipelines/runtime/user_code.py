"""The user's own tasks and mixers, which a config names as "module:Class"."""

from __future__ import annotations

import os
import sys
from typing import Any

from pipelines.config.experiment import Experiment

PACKAGES = ("datagen", "sleepmodel", "pipelines")


def import_from_working_directory() -> None:
    """Let this process import modules from the working directory, which is not on a script's path. It comes last, so
    that no file there hides another module."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


def runtime_env(experiment: Experiment) -> dict[str, Any] | None:
    """The runtime environment in which Ray's workers can import the user's code; None where an experiment has none.

    Workers get this process's PYTHONPATH and working directory. Workers on other nodes must see it too: with
    `ray job submit --working-dir .`, Ray sends a copy to every node.
    """
    models = [experiment.model, *map(experiment.variant_model, experiment.variants)]
    named = {mixer for model in models for mixer in model.mixers if ":" in mixer}
    if type(experiment.task).__module__.partition(".")[0] in PACKAGES and not named:
        return None
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([os.getcwd(), *([given] if given else []), "${PYTHONPATH}"])
    return {"env_vars": {"PYTHONPATH": path}}
