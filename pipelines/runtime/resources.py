"""The resource plan on a Ray cluster: cores or a GPU for each training, and how many trainings run side by side."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from sleepmodel.config.training import Scale

CORES_A_GPU = 8  # at most: one prefetches rows, torch uses the others
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
        return f"{self.cluster}; a training takes {workers} with {self.worker}{each}; {self.max_concurrent} at once"

    @property
    def worker(self) -> str:
        """The resources of one worker, as text."""
        return f"{self.scale.cores} core{'s' * (self.scale.cores > 1)}{' and a GPU' if self.scale.gpu else ''}"


def plan_resources_on_ray(scale: Scale) -> ResourcePlan:
    """`plan_resources` for the Ray cluster of this process, including nodes that its autoscaler may start."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    launched = Path(os.environ.get(LAUNCHED_BY, "")).expanduser()
    startable = nodes_to_start(json.loads(launched.read_text())) if launched.is_file() else []
    return plan_resources(
        scale, [node for node in alive if HEAD in node] + startable if startable else alive, bool(startable)
    )


def nodes_to_start(cluster: dict[str, Any]) -> list[Resources]:
    """The resources of each worker node that Ray's autoscaler may start, those with GPUs first.

    cluster: the launcher's ray_bootstrap_config.yaml on the head, which is JSON. Node types whose resources it does
    not state are left out.
    """
    kinds = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    kinds.sort(key=lambda kind: kind["resources"].get("GPU", 0), reverse=True)
    most = cluster["max_workers"]
    nodes = [kind["resources"] for kind in kinds if kind["resources"] for _ in range(kind.get("max_workers", most))]
    return nodes[:most]


def plan_resources(scale: Scale, nodes: Sequence[Resources], grows: bool = False) -> ResourcePlan:
    """Decide the resources of a training where `scale` leaves them open, and how many trainings fit.

    nodes: the resources of each; grows: whether some of them are not started yet. A worker gets a GPU where there is
    one, with its share of the node's cores up to CORES_A_GPU; without a GPU it gets one core.
    Raises ValueError where a training could never start: Ray would wait forever.
    """
    sizes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    gpu = any(gpus for _, gpus in sizes) if scale.gpu is None else scale.gpu
    share = min((cpus // gpus for cpus, gpus in sizes if gpus), default=1) if gpu else 1
    found = replace(scale, gpu=gpu, cpus_per_worker=scale.cpus_per_worker or max(1, min(share, CORES_A_GPU)))
    # a worker cannot span nodes
    room = sum(min(cpus // found.cores, gpus if gpu else cpus) for cpus, gpus in sizes)
    several = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    started = ", including those that may still be started" if grows else ""
    cluster = f"{sum(cpus for cpus, _ in sizes)} CPU and {sum(gpus for _, gpus in sizes)} GPU{several}{started}"
    resources = ResourcePlan(found, room // found.workers, cluster)
    if not resources.max_concurrent:
        raise ValueError(
            f"scale: Ray has {resources.cluster}, which hold {room} workers with {resources.worker}: must hold "
            f"{found.workers}; start Ray with more, or lower scale.workers, scale.cpus_per_worker or scale.gpu"
        )
    return resources
