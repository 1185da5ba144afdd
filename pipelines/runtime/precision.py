"""train.precision=auto: bfloat16 or float32, whichever trains an experiment faster."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from datagen.artifact import Artifact
from datagen.canonical import fingerprint_of
from pipelines.config.experiment import Experiment
from pipelines.engine.canonical import canonical
from pipelines.runtime.cost_estimate import timed_step, torch_threads
from sleepmodel.config.training import AUTO
from sleepmodel.inference.stopwatch import seconds_of
from sleepmodel.ops.machine import cache_directory, processor

PROBE_TOKENS = 2**11  # in a timed step: seconds, also where bfloat16 is slow
ROUNDS = 3
MARGIN = 1.1  # how many times as fast bfloat16 must be, to be worth its rounding
DIRECTORY = "precision"  # under the root: what runs began with


@dataclass(frozen=True)
class StepSeconds:
    """The seconds of a step in each precision."""

    float32: float
    bfloat16: float


@dataclass(frozen=True)
class Choice:
    """What "auto" stands for in the runs of an experiment under a root."""

    precision: Literal["float32", "bfloat16"]


def resolve_precision(experiment: Experiment, root: Path, keep: bool) -> tuple[Experiment, str]:
    """The experiment with a precision in place of "auto", and a line that says which and why; "" where none is "auto".

    A run that began under `root` goes on with its own, on whatever machine. keep: whether to note there what is chosen;
    False is a dry run, whose measurement, if it needs one, no later run sees. Of this machine's processor, the
    measurement is kept in the user's cache. Trainings on GPUs of other machines are told by scale.gpu=true alone.
    """
    if AUTO not in (experiment.train.precision, *(_precision(variant.train) for variant in experiment.variants)):
        return experiment, ""
    identity = fingerprint_of(canonical([experiment.model, experiment.train], experiment.name))
    noted = Artifact(f"{experiment.name}-{identity}.json", Choice, "delete it, to choose again")
    if (root / DIRECTORY / noted.name).exists():
        choice, why = noted.load(root / DIRECTORY), "with which this run began"
    else:
        choice, why = _choose(experiment, keep)
        if keep:
            noted.save(root / DIRECTORY, choice)
    train = experiment.train
    variants = tuple(
        replace(variant, train={**variant.train, "precision": choice.precision})
        if variant.train and _precision(variant.train) == AUTO
        else variant
        for variant in experiment.variants
    )
    if train.precision == AUTO:
        train = replace(train, precision=choice.precision)
    return replace(experiment, train=train, variants=variants), f"train.precision=auto is {choice.precision}, {why}"


def _precision(own: Mapping[str, Any] | None) -> object:
    return (own or {}).get("precision")


def _choose(experiment: Experiment, keep: bool) -> tuple[Choice, str]:
    on_gpu = torch.cuda.is_available() if experiment.scale.gpu is None else experiment.scale.gpu
    if on_gpu:
        if torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False):
            return Choice("float32"), f"as {torch.cuda.get_device_name()} does not compute in bfloat16"
        return Choice("bfloat16"), "as on every GPU that computes in it"
    kept = keep or (cache_directory() / _cached(experiment).name).exists()
    hint = "" if kept else f"; a run measures again, and may choose otherwise if this is near {1 / MARGIN:.2f}"
    step = step_seconds(experiment)
    choice = Choice("bfloat16" if step.float32 > MARGIN * step.bfloat16 else "float32")
    return choice, (
        f"as on this processor, at width {experiment.model.d_model}, a step in bfloat16 takes "
        f"{step.bfloat16 / step.float32:.2f} times as long as one in float32{hint}"
    )


def step_seconds(experiment: Experiment) -> StepSeconds:
    """Of this machine's processor, for models as wide as the experiment's on as many cores: measured once."""
    cached = _cached(experiment)
    if (cache_directory() / cached.name).exists():
        return cached.load(cache_directory())
    measured = _measured(experiment, experiment.scale.cores)
    with suppress(OSError):  # of a home that cannot be written: then it is measured each time
        cached.save(cache_directory(), measured)
    return measured


def _cached(experiment: Experiment) -> Artifact[StepSeconds]:
    identity = fingerprint_of([processor(), torch.__version__, experiment.model.d_model, experiment.scale.cores])
    return Artifact(f"precision-{identity}.json", StepSeconds, "delete it, to measure again")


def _measured(experiment: Experiment, cores: int) -> StepSeconds:
    with torch_threads(cores):
        steps = [timed_step(experiment, precision, PROBE_TOKENS)[0] for precision in ("float32", "bfloat16")]
        rounds = [[seconds_of(step) for step in steps] for _ in range(1 + ROUNDS)]  # the first one warms up
    return StepSeconds(*map(min, zip(*rounds[1:], strict=True)))
