"""What trainings get of a cluster, and that what could never start is refused before anything does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines.runtime.resources import nodes_to_start, plan_resources, plan_resources_on_ray
from sleepmodel.config.training import Scale

CLUSTER_FILE = Path(__file__).parents[2] / "ray_cluster.yaml"
LAPTOP = [{"CPU": 2.0, "memory": 1e9}]
MACHINE = [{"CPU": 64.0, "GPU": 8.0}]
CLUSTER = [{"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("scale", "nodes", "cores", "gpu", "max_concurrent"),
    [
        (Scale(), LAPTOP, 1, False, 2),
        (Scale(cpus_per_worker=2), LAPTOP, 2, False, 1),
        (Scale(), MACHINE, 8, True, 8),
        (Scale(gpu=False), MACHINE, 1, False, 64),
        (Scale(workers=4), MACHINE, 8, True, 2),
        (Scale(), CLUSTER, 8, True, 8),
        (Scale(cpus_per_worker=24), CLUSTER, 24, True, 2),
        (Scale(), [{"CPU": 2.0, "GPU": 4.0}], 1, True, 2),
        (Scale(), [{"CPU": 64.0}, {"CPU": 4.0, "GPU": 1.0}], 4, True, 1),
        (Scale(workers=2, cpus_per_worker=2), [{"CPU": 4.0}, {"CPU": 2.0}], 2, False, 1),
    ],
)
def test_what_is_open_follows_from_the_cluster(
    scale: Scale, nodes: list[dict[str, float]], cores: int, gpu: bool, max_concurrent: int
) -> None:
    found = plan_resources(scale, nodes)
    assert (found.scale.cores, found.scale.gpu, found.max_concurrent) == (cores, gpu, max_concurrent)
    assert found.scale.workers == scale.workers


def test_it_is_said_in_a_line() -> None:
    assert str(plan_resources(Scale(), LAPTOP)) == "2 CPU and 0 GPU; a training takes 1 worker with 1 core; 2 at once"
    assert str(plan_resources(Scale(workers=8), CLUSTER)) == (
        "72 CPU and 8 GPU on 3 nodes; a training takes 8 workers with 8 cores and a GPU each, on as few nodes as hold "
        "them; 1 at once"
    )


@pytest.mark.parametrize(
    ("scale", "nodes", "message"),
    [
        (Scale(workers=3), LAPTOP, "2 CPU and 0 GPU, which hold 2 workers with 1 core: must hold 3; start Ray with"),
        (Scale(gpu=True), LAPTOP, "hold 0 workers with 1 core and a GPU: must hold 1"),
        (Scale(workers=9), CLUSTER, "hold 8 workers with 8 cores and a GPU: must hold 9"),
        (Scale(gpu=False, cpus_per_worker=40), CLUSTER, "on 3 nodes, which hold 0 workers with 40 cores"),
        (Scale(workers=2, cpus_per_worker=3), [{"CPU": 4.0}, {"CPU": 2.0}], "hold 1 workers with 3 cores: must hold 2"),
    ],
)
def test_what_could_never_start_is_refused(scale: Scale, nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_resources(scale, nodes)


HALF = [{"CPU": 8.0, "memory": 10 * 2**30, "object_store_memory": 2 * 2**30}]
CARDS = [{"CPU": 64.0, "GPU": 8.0, "memory": 2**30, "gpu_memory": 80 * 2**30}]


@pytest.mark.parametrize(
    ("scale", "nodes", "gib", "max_concurrent"),
    [
        (Scale(), HALF, 0.0, 8),
        (Scale(), HALF, 5.0, 2),
        (Scale(), HALF, 12.0, 1),
        (Scale(workers=2), HALF, 3.0, 2),
        (Scale(), [*HALF, {"CPU": 4.0}], 5.0, 6),
        (Scale(), CARDS, 80.0, 8),
        (Scale(gpu=False), CARDS, 0.25, 4),
        (Scale(), MACHINE, 1e6, 8),
    ],
)
def test_trainings_side_by_side_share_the_memory(
    scale: Scale, nodes: list[dict[str, float]], gib: float, max_concurrent: int
) -> None:
    """Where a node does not state its memory, it counts as enough."""
    assert plan_resources(scale, nodes, worker_bytes=int(gib * 2**30)).max_concurrent == max_concurrent


@pytest.mark.parametrize(
    ("scale", "nodes", "gib", "message"),
    [
        (
            Scale(),
            HALF,
            12.5,
            r"takes 1 x at least 12.50 GiB, but a node has at most 12.00 GiB, where 0 x as much fit: ",
        ),
        (Scale(workers=3), HALF, 5.0, r"takes 3 x at least 5.00 GiB, but a node has at most 12.00 GiB, where 2 x as"),
        (Scale(), CARDS, 81.0, r"at least 81.00 GiB, but a GPU has at most 80.00 GiB.*zero_stage=3.*trained=inserted"),
    ],
)
def test_what_cannot_fit_the_memory_is_refused(
    scale: Scale, nodes: list[dict[str, float]], gib: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_resources(scale, nodes, worker_bytes=int(gib * 2**30))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where Ray's launcher leaves on the head what it was given."""
    monkeypatch.setenv("SLEEPMODEL_CLUSTER", str(tmp_path / "ray_bootstrap_config.yaml"))
    return tmp_path / "ray_bootstrap_config.yaml"


def test_the_clusters_file_counts_with_what_it_may_start(ray_cluster: str, launched: Path) -> None:
    """A head without a GPU: the trainings that wait are what makes the GPUs come."""
    launched.write_text(json.dumps(yaml.safe_load(CLUSTER_FILE.read_text())))
    found = plan_resources_on_ray(Scale())
    assert (found.scale.gpu, found.scale.cores, found.max_concurrent) == (True, 8, 16)
    assert re.match(r"\d+ CPU and 16 GPU on 25 nodes, including those that may still be started; ", str(found))
    with pytest.raises(ValueError, match="may still be started, which hold 16 workers with 8 cores and a GPU: must ho"):
        plan_resources_on_ray(Scale(workers=17))
    with pytest.raises(ValueError, match="hold 0 workers with 24 cores and a GPU"):
        plan_resources_on_ray(Scale(cpus_per_worker=24))


def test_machines_of_ones_own_are_those_that_run(ray_cluster: str, launched: Path) -> None:
    """Ray's launcher does not say there what a node has."""
    kinds = {"local.cluster.node": {"resources": {}, "node_config": {}}, "head": {"resources": {}}}
    launched.write_text(json.dumps({"available_node_types": kinds, "head_node_type": "head", "max_workers": 2}))
    assert plan_resources_on_ray(Scale(gpu=False)).max_concurrent == 4


def test_it_is_read_off_the_running_ray(ray_cluster: str) -> None:
    found = plan_resources_on_ray(Scale(gpu=False))
    assert found.max_concurrent == 4 and found.cluster.startswith("4 CPU and ")


def test_node_types_that_state_no_resources_are_left_out() -> None:
    kinds = {
        "head": {"resources": {"CPU": 4}},
        "small": {"resources": {"CPU": 8}},
        "unknown": {},
        "empty": {"resources": {}},
    }
    kinds["gpu"] = {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 1}
    cluster = {"head_node_type": "head", "max_workers": 3, "available_node_types": kinds}
    small, gpu = kinds["small"]["resources"], kinds["gpu"]["resources"]
    assert nodes_to_start(cluster) == [gpu, small, small]
