"""What trainings run on: whether torch can use the GPUs that Ray counts, and the form of the fast weights' rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.config.experiment import Experiment
from pipelines.runtime.nodes import alive, ask
from sleepmodel.config.training import Scale
from sleepmodel.mixers import mixer_class
from sleepmodel.mixers.gated_delta import GatedDelta, Linear
from sleepmodel.ops.gated_delta import KERNELS, kernel_for

DRIVER = Path("/proc/driver/nvidia/version")  # where NVIDIA's kernel module says which it is


@dataclass(frozen=True)
class Rule:
    """A use of the gated delta rule: the arguments of `kernel_for` but for the device."""

    dtype: torch.dtype
    key_dim: int
    value_dim: int
    tokens: int
    heads: int


def rules(experiment: Experiment, scale: Scale) -> list[Rule]:
    """Those of all models that the experiment trains, with the batches of a worker of this scale."""
    trained = [(experiment.variant_model(v), experiment.variant_train(v)) for v in experiment.variants]
    if experiment.search:
        trained.append((experiment.model, experiment.train))
    found = [
        Rule(
            torch.float32 if train.precision == "float32" else torch.bfloat16,
            model.key_dim,
            model.value_dim,
            model.window,
            train.batch_size // (scale.workers * scale.accumulation) * model.fast_heads,
        )
        for model, train in trained
        for mixer in map(mixer_class, model.mixers)
        if issubclass(mixer, GatedDelta) and not issubclass(mixer, Linear)
    ]
    return list(dict.fromkeys(found))


def describe_kernels(uses: Sequence[Rule], device: torch.device) -> list[str]:
    """The forms in which a device of this machine computes the rule, in words, each with the device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    found = []
    for use in uses:
        kernel = KERNELS[kernel_for(device, use.dtype, use.key_dim, use.value_dim, use.tokens, use.heads)]
        found.append(f"{kernel.format(str(use.dtype).removeprefix('torch.'))} on {name}")
    return list(dict.fromkeys(found))


def look_at_gpus(uses: Sequence[Rule]) -> list[str]:
    """`describe_kernels` of each kind of GPU in the Ray cluster of this process.

    Raises ValueError, which names the node and the cause, where Ray counts a GPU that torch cannot use: trainings would
    start there and fail.
    """
    found: list[str] = []
    for node, answer in ask([node for node in alive() if node["Resources"].get("GPU", 0) >= 1], _look, uses, gpus=1):
        if answer is None:  # it is in use, so torch can use it
            continue
        trouble, kernels = answer
        if trouble:
            raise ValueError(
                f"scale.gpu: Ray counts {node['Resources']['GPU']:.0f} GPU on node {node['NodeManagerAddress']}, and "
                f"torch there cannot use it: {trouble}; or train on CPUs with --set scale.gpu=false"
            )
        found += kernels
    return list(dict.fromkeys(found))


def _look(uses: Sequence[Rule]) -> tuple[str, list[str]]:
    trouble = gpu_trouble()
    return trouble, [] if trouble else describe_kernels(uses, torch.device("cuda"))


def gpu_trouble() -> str:
    """Why torch cannot use a GPU in this process, and the remedy; "" where it can."""
    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is a build for CPUs: install its CUDA build there (docs/configuration.md)"
    try:
        torch.zeros((), device="cuda").add(1).item()  # a kernel, as the build may lack those of this GPU
    except RuntimeError as error:
        return (
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, and the NVIDIA driver is "
            f"{driver_version() or 'missing'} ({str(error).partition('. ')[0]}): install a driver for this CUDA there "
            "(docs/configuration.md)"
        )
    return ""


def driver_version(file: Path = DRIVER) -> str | None:
    """The version of the NVIDIA driver of this machine; None where there is none."""
    found = re.search(r"Kernel Module.*?(\d+(?:\.\d+)+)", file.read_text()) if file.is_file() else None
    return found[1] if found else None
