"""Code of the user's own: a task or a mixer that a config names as "module:Class"."""

from __future__ import annotations

import os
import sys
from typing import Any

from pipelines.config.experiment import Experiment

PACKAGES = ("datagen", "sleepmodel", "pipelines")


def import_from_here() -> None:
    """Let this process import modules from the directory where the command was typed; a script's own path is not it.
    They come last, so that no file there hides a module of ours or of Python's."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)


def runtime_env(experiment: Experiment) -> dict[str, Any] | None:
    """What Ray's workers need in order to import what the experiment names; None where all of it is ours.

    They get this process's PYTHONPATH and its directory, which a worker on another node has to see too: under
    `ray job submit --working-dir .` it is a copy that Ray sends to every node.
    """
    models = [experiment.model, *map(experiment.variant_model, experiment.variants)]
    named = {mixer for model in models for mixer in model.mixers if ":" in mixer}
    if type(experiment.task).__module__.partition(".")[0] in PACKAGES and not named:
        return None
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([os.getcwd(), *([given] if given else []), "${PYTHONPATH}"])
    return {"env_vars": {"PYTHONPATH": path}}
