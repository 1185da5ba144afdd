"""The program of test_lost.py: the node that alone has room for a training, and for a task, is lost for good.

    python -m tests.faults.lost ROOT

It is the driver, as a cluster is started from the main thread of a process that is in no other.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from datagen import generate
from pipelines.config.presets import PRESETS
from pipelines.runtime.resources import plan_resources_on_ray
from pipelines.runtime.services import Services
from sleepmodel import Scale
from sleepmodel.config.training import Search
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.distributed.ray_train import fit
from sleepmodel.distributed.ray_tune import search
from sleepmodel.distributed.ray_worker import CHECKPOINTS
from tests.faults.nodes import kill_when
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK
from tests.waiting import in_thread


def nothing() -> None:
    """A task that could run, if there were room for it."""


def main(root: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    doomed = cluster.add_node(num_cpus=2)
    ray.init(cluster.address, log_to_driver=False)
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    scale = Scale(cpus_per_worker=2, wait_minutes=1)
    services = Services(dataclasses.replace(PRESETS["smoke"], scale=scale), root)
    services.resources = plan_resources_on_ray(scale)
    endless = dataclasses.replace(CONFIG, steps=10**6)
    job = TrainingJob("n1", MODEL, endless, str(dataset), str(root / "training"), scale=scale)

    job_of_search = dataclasses.replace(job, name="tune", output=str(root / "search"))
    killer = kill_when(lambda: checkpoints.latest(root / "training" / CHECKPOINTS) is not None, cluster, doomed)
    said = {}
    for name, call in {
        "training": lambda: in_thread(fit, job).result(),
        "task": lambda: services.map(nothing, [()], cores=2),
        "search": lambda: search(job_of_search, Search(trials=1, sleep_passes=(1,)), 1, services.room()),
    }.items():
        begin = time.monotonic()
        try:
            call()
        except TimeoutError as error:
            said[name] = [str(error), time.monotonic() - begin]
    killer.join()
    (root / "result.json").write_text(json.dumps(said))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
