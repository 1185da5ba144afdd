"""The resource plan on a Ray cluster: cores or a GPU for each training, and how many trainings run side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch

from pipelines.config.experiment import Experiment
from pipelines.engine.stage import Stage
from sleepmodel.config.training import Scale
from sleepmodel.model import SleepModel
from sleepmodel.training.memory import training_memory
from sleepmodel.training.optim import freeze

CORES_A_GPU = 8  # at most: one prefetches rows, torch uses the others
GIB = 2**30
MEMORY, STORE = (
    "memory",
    "object_store_memory",
)  # Ray's names; together what was free when it started
GPU_MEMORY = "gpu_memory"  # ours: bytes of each GPU of a node, where they are known
HEAD = "node:__internal_head__"  # Ray marks the head node by this resource
# names the file that Ray's cluster launcher left on the head: Ray has no API for the nodes that it may start
LAUNCHED_BY = "SLEEPMODEL_CLUSTER"

Resources = Mapping[str, float]


@dataclass(frozen=True)
class ResourcePlan:
    """scale: with no field left open; max_concurrent: how many trainings, or trials of a search, run side by side;
    cluster: its resources, as text."""

    scale: Scale
    max_concurrent: int
    cluster: str

    def __str__(self) -> str:
        several = self.scale.workers > 1
        workers = f"{self.scale.workers} worker{'s' * several}"
        each = " each, on as few nodes as hold them" if several else ""
        takes = f"a training takes {workers} with {self.scale.worker_in_words}{each}"
        return f"{self.cluster}; {takes}; {self.max_concurrent} at once"


def plan_resources_on_ray(scale: Scale, worker_bytes: int = 0) -> ResourcePlan:
    """`plan_resources` for the Ray cluster of this process, including nodes that its autoscaler may start."""
    here = ray.get_runtime_context().get_node_id()
    alive = [
        {**node["Resources"], **(_gpu_memory() if node["NodeID"] == here else {})}
        for node in ray.nodes()
        if node["Alive"]
    ]
    launched = Path(os.environ.get(LAUNCHED_BY, "")).expanduser()
    startable = nodes_to_start(json.loads(launched.read_text())) if launched.is_file() else []
    nodes = [node for node in alive if HEAD in node] + startable if startable else alive
    return plan_resources(scale, nodes, bool(startable), worker_bytes)


def _gpu_memory() -> dict[str, float]:
    """The memory of the largest GPU of this machine; empty where torch sees none."""
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return {GPU_MEMORY: max(sizes)} if sizes else {}


def worker_bytes(experiment: Experiment, stages: Sequence[Stage]) -> int:
    """A lower bound of the memory of a worker in the largest training among `stages`. It does not depend on N and eta,
    which a search chooses."""
    largest = 0
    for stage in stages:
        if isinstance(stage.config, dict) and "train" in stage.config:
            model = SleepModel.without_weights(stage.config.get("model", experiment.model))
            freeze(model, stage.config["train"].trained)
            needed = training_memory(model, stage.config["train"], experiment.scale, experiment.task.row_length)
            largest = max(largest, needed.total)
    return largest


def nodes_to_start(cluster: dict[str, Any]) -> list[Resources]:
    """The resources of each worker node that Ray's autoscaler may start, those with GPUs first.

    cluster: the launcher's ray_bootstrap_config.yaml on the head, which is JSON. Node types whose resources it does
    not state are left out.
    """
    kinds = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    stated = [kind for kind in kinds if kind.get("resources")]
    stated.sort(key=lambda kind: kind["resources"].get("GPU", 0), reverse=True)
    most = cluster["max_workers"]
    nodes = [kind["resources"] for kind in stated for _ in range(kind.get("max_workers", most))]
    return nodes[:most]


def plan_resources(
    scale: Scale, nodes: Sequence[Resources], grows: bool = False, worker_bytes: int = 0
) -> ResourcePlan:
    """Decide the resources of a training where `scale` leaves them open, and how many trainings fit.

    nodes: the resources of each; grows: whether some of them are not started yet. A worker gets a GPU where there is
    one, with its share of the node's cores up to CORES_A_GPU; without a GPU it gets one core.
    worker_bytes: the least memory of a worker. Memory that a node does not state counts as enough.
    Raises ValueError where a training could never start, as Ray would wait forever, or cannot fit the memory.
    """
    sizes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    gpu = any(gpus for _, gpus in sizes) if scale.gpu is None else scale.gpu
    share = min((cpus // gpus for cpus, gpus in sizes if gpus), default=1) if gpu else 1
    found = replace(scale, gpu=gpu, cpus_per_worker=scale.cpus_per_worker or max(1, min(share, CORES_A_GPU)))
    # a worker cannot span nodes
    rooms = [min(cpus // found.cores, gpus if gpu else cpus) for cpus, gpus in sizes]
    fits = [_fitting(room, node, worker_bytes, gpu) for room, node in zip(rooms, nodes, strict=True)]
    room, fitting = sum(rooms), sum(fits)
    several = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    started = ", including those that may still be started" if grows else ""
    cluster = f"{sum(cpus for cpus, _ in sizes)} CPU and {sum(gpus for _, gpus in sizes)} GPU{several}{started}"
    resources = ResourcePlan(found, fitting // found.workers, cluster)
    if room < found.workers:
        raise ValueError(
            f"scale: Ray has {resources.cluster}, which hold {room} workers with {found.worker_in_words}: must hold "
            f"{found.workers}; start Ray with more, or lower scale.workers, scale.cpus_per_worker or scale.gpu"
        )
    if not resources.max_concurrent:
        stated = [_stated_memory(node, gpu) for node, many in zip(nodes, rooms, strict=True) if many]
        there = max(memory for memory in stated if memory is not None)
        raise ValueError(
            f"scale: a training takes {found.workers} x at least {worker_bytes / GIB:.2f} GiB, but "
            f"{'a GPU' if gpu else 'a node'} has at most {there / GIB:.2f} GiB, where {fitting} x as much fit: use "
            "more or larger machines, scale.zero_stage=3 with more scale.workers, train.trained=inserted, with which "
            "train.precision=bfloat16_weights halves the other weights, or train.optimizer=muon, whose state is half "
            "of adamw's (docs/scaling.md)"
        )
    return resources


def _stated_memory(node: Resources, gpu: bool) -> float | None:
    """Bytes for the trainings of a node, or of each of its GPUs; None: not known."""
    if gpu:
        return node.get(GPU_MEMORY)
    return node[MEMORY] + node.get(STORE, 0) if MEMORY in node else None


def _fitting(workers: int, node: Resources, worker_bytes: int, gpu: bool) -> int:
    """How many of `workers` fit the memory of a node."""
    memory = _stated_memory(node, gpu)
    if memory is None or not worker_bytes:
        return workers
    if gpu:  # each has its own
        return workers if worker_bytes <= memory else 0
    return min(workers, int(memory // worker_bytes))
