"""What trainings get of a cluster, and that what could never start is refused before anything does."""

from __future__ import annotations

import pytest

from pipelines.resources import allot, allot_on_ray
from sleepmodel.config import Scale

LAPTOP = [{"CPU": 2.0, "memory": 1e9}]
MACHINE = [{"CPU": 64.0, "GPU": 8.0}]
CLUSTER = [{"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}]


@pytest.mark.parametrize(
    ("scale", "nodes", "cores", "gpu", "at_once"),
    [
        (Scale(), LAPTOP, 1, False, 2),
        (Scale(cpus_per_worker=2), LAPTOP, 2, False, 1),
        (Scale(), MACHINE, 8, True, 8),
        (Scale(gpu=False), MACHINE, 1, False, 64),
        (Scale(workers=4), MACHINE, 8, True, 2),
        (Scale(), CLUSTER, 8, True, 8),
        (Scale(cpus_per_worker=24), CLUSTER, 24, True, 3),
        (Scale(), [{"CPU": 2.0, "GPU": 4.0}], 1, True, 2),
    ],
)
def test_what_is_open_follows_from_the_cluster(
    scale: Scale, nodes: list[dict[str, float]], cores: int, gpu: bool, at_once: int
) -> None:
    found = allot(scale, nodes)
    assert (found.scale.cores, found.scale.gpu, found.at_once) == (cores, gpu, at_once)
    assert found.scale.workers == scale.workers


def test_it_is_said_in_a_line() -> None:
    assert str(allot(Scale(), LAPTOP)) == "2 CPU and 0 GPU; a training takes 1 worker with 1 core; 2 at once"
    assert str(allot(Scale(workers=8), CLUSTER)) == (
        "72 CPU and 8 GPU on 3 nodes; a training takes 8 workers with 8 cores and a GPU each, on as few nodes as hold "
        "them; 1 at once"
    )


@pytest.mark.parametrize(
    ("scale", "nodes", "message"),
    [
        (Scale(workers=3), LAPTOP, "3 workers need 3 CPU, this Ray has 2: start Ray with more, or lower scale.workers"),
        (Scale(gpu=True), LAPTOP, "1 workers need 1 GPU, this Ray has 0"),
        (Scale(workers=9), CLUSTER, "9 workers need 9 GPU, this Ray has 8"),
        (
            Scale(gpu=False, cpus_per_worker=40),
            CLUSTER,
            "cpus_per_worker = 40: must be at most 32, the cores of the la",
        ),
    ],
)
def test_what_could_never_start_is_refused(scale: Scale, nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        allot(scale, nodes)


def test_an_autoscaler_counts_with_what_it_may_start() -> None:
    """A head without a GPU: the trainings that wait are what makes the GPUs come."""
    head, promised = [{"CPU": 8.0}], {"CPU": 136.0, "GPU": 16.0}
    found = allot(Scale(), head, promised)
    assert (found.scale.gpu, found.scale.cores, found.at_once) == (True, 8, 16)
    assert "with what may still be started" in str(found)
    with pytest.raises(ValueError, match="17 workers need 17 GPU, this Ray has 16 and may start no more"):
        allot(Scale(workers=17), head, promised)


def test_it_is_read_off_the_running_ray(ray_cluster: str) -> None:
    found = allot_on_ray(Scale(gpu=False))
    assert found.at_once == 4 and found.cluster.startswith("4 CPU and ")
