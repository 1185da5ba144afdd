"""Tasks on a Ray that has no room for them."""

import os
import sys
from pathlib import Path

import pytest

from datagen import Rule110, read_rows
from tests.waiting import run

pytestmark = pytest.mark.slow

TASK = Rule110(cells=6, states=2, steps=1)
PROGRAM = f"""
import sys
import ray
from ray.cluster_utils import Cluster
import datagen
from datagen import ray_tasks

ray_tasks.LOOK_SECONDS = 0.2
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0}})
ray.init(cluster.address, log_to_driver=False)
try:
    datagen.generate(datagen.{TASK!r}, "test", 10, 0, sys.argv[1], wait_minutes=0.02)
except TimeoutError as error:
    print("ended:", error)
cluster.add_node(num_cpus=1)
print(datagen.generate(datagen.{TASK!r}, "test", 10, 0, sys.argv[1]))
ray.shutdown()
cluster.shutdown()
"""


def test_a_cluster_without_a_core_is_said_and_not_waited_for_without_end(tmp_path: Path) -> None:
    """As a head that only manages, before its workers join or after they are lost."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = run([sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=Path(__file__).parents[2], env=environment)
    assert done.returncode == 0, done.stderr
    lacking = "a task takes 1 CPU, but Ray has 0 CPU on 1 node: add a node, or start Ray with more"
    assert f"{lacking}; waiting for a node, for 0.02 minutes at most" in done.stderr
    ended, path = done.stdout.splitlines()
    hint = "scale.wait_minutes of a pipeline sets how long it waits"
    assert ended == f"ended: {lacking}; no node came in 0.02 minutes ({hint})"
    assert len(read_rows(path, "test")) == 10
