"""What a pipeline takes of a Ray cluster: cores or a GPU for each training, and how many trainings at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import ray
from ray._private.state import state  # Ray tells nowhere else what an autoscaler may start

from sleepmodel.config import Scale

CORES_A_GPU = 8  # at most: one reads rows ahead, the others are torch's

Resources = Mapping[str, float]


@dataclass(frozen=True)
class Allotment:
    """scale: with nothing left to derive; at_once: trainings, or trials of a search, side by side."""

    scale: Scale
    at_once: int
    cluster: str

    def __str__(self) -> str:
        scale, gpu = self.scale, " and a GPU" if self.scale.gpu else ""
        workers = f"{scale.workers} worker{'s' * (scale.workers > 1)}"
        cores = f"{scale.cores} core{'s' * (scale.cores > 1)}"
        each = " each, on as few nodes as hold them" if scale.workers > 1 else ""
        return f"{self.cluster}; a training takes {workers} with {cores}{gpu}{each}; {self.at_once} at once"


def allot_on_ray(scale: Scale) -> Allotment:
    """`allot` on the Ray that this process is connected to."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return allot(scale, nodes, state.get_max_resources_from_cluster_config())


def allot(scale: Scale, nodes: Sequence[Resources], promised: Resources | None = None) -> Allotment:
    """What a training gets where the `scale` leaves it open, and how many fit.

    nodes: resources of each; promised: of all nodes together that an autoscaler may have, None where there is none. A
    GPU is taken where there is one; a worker's cores are its GPU's share of the cluster's, up to CORES_A_GPU, or one.
    Raises ValueError where a training could never start; Ray would wait for ever.
    """
    total = {
        what: int(max(sum(node.get(what, 0) for node in nodes), (promised or {}).get(what, 0)))
        for what in ("CPU", "GPU")
    }
    gpu = total["GPU"] > 0 if scale.gpu is None else scale.gpu
    share = min(CORES_A_GPU, total["CPU"] // max(total["GPU"], 1)) if gpu else 1
    found = replace(scale, gpu=gpu, cpus_per_worker=scale.cpus_per_worker or max(1, share))
    needed = {"CPU": found.workers * found.cores, "GPU": found.workers * int(gpu)}
    for what, count in needed.items():
        if count > total[what]:
            may = " and may start no more" if promised else ""
            raise ValueError(
                f"scale: {found.workers} workers need {count} {what}, this Ray has {total[what]}{may}: start Ray with "
                "more, or lower scale.workers, scale.cpus_per_worker or scale.gpu"
            )
    largest = max(node.get("CPU", 0) for node in nodes)
    if found.cores > largest and not promised:
        raise ValueError(
            f"scale.cpus_per_worker = {found.cores}: must be at most {largest:.0f}, the cores of the largest node"
        )
    at_once = min(total[what] // count for what, count in needed.items() if count)
    several = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    grows = ", with what may still be started" if promised else ""
    return Allotment(found, at_once, f"{total['CPU']} CPU and {total['GPU']} GPU{several}{grows}")
