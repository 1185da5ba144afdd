"""The program of test_nodes.py: a dataset and a search on three nodes, of which one is killed during each. Before, what
is said of a root that they share and of one that the driver alone sees.

    python -m tests.faults.nodes ROOT

It is the driver, as a cluster is started from the main thread of a process that is in no other.
"""

import dataclasses
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from datagen import Rule110, generate
from datagen.shard_size import SHARD_ROWS
from pipelines.runtime.services import check_shared_root
from sleepmodel import SleepModel
from sleepmodel.config.training import Search
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.distributed.ray_tune import search
from sleepmodel.tracking.runs import open_store, start_run
from sleepmodel.training.engine import Engine
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

SLOW = Rule110(cells=8, states=1, steps=2048)
SHARDS, TRIALS = 6, 3
VALIDATIONS = "validations"
PRIVATE = 900  # a file descriptor of this process: a directory under it is no other's


class Tracked(TrainingJob):
    """Its trials report once a second, leave a line for each validation, and a file for each node on which they have
    reported."""

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        validate, output, first = super().validate(engine), Path(self.output).parents[1], True  # of the search

        def check(model: SleepModel, level: int | None) -> float:
            nonlocal first
            if not first:
                (output / ray.get_runtime_context().get_node_id()).touch()
            first = False
            with (output / VALIDATIONS).open("a") as file:
                file.write("1\n")
            time.sleep(1)
            return validate(model, level)

        return check


def kill_when(condition: Callable[[], bool], cluster: Cluster, node: object) -> threading.Thread:
    """A thread that kills every process of a node as soon as a condition holds."""

    def kill() -> None:
        while not condition():
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def main(root: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    doomed = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(cluster.address, log_to_driver=False)

    check_shared_root(root)
    (root / "elsewhere").mkdir()
    os.dup2(os.open(root / "elsewhere", os.O_RDONLY), PRIVATE)
    try:
        check_shared_root(Path(f"/proc/self/fd/{PRIVATE}"))
        unseen = ""
    except ValueError as error:
        unseen = str(error)

    killer = kill_when(lambda: len(shards(root)) >= 2, cluster, doomed[0])
    generate(SLOW, "train", SHARDS * SHARD_ROWS, 0, root / "lost")
    killer.join()
    generate(SLOW, "train", SHARDS * SHARD_ROWS, 0, root / "whole")

    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    store, output = open_store(root), root / "search"
    output.mkdir()
    job = Tracked("tune", MODEL, CONFIG, str(dataset), str(output), store=store)
    job = dataclasses.replace(job, run=start_run(store, "tune", "tune", None, {}, {}))
    killer = kill_when((output / doomed[1].node_id).exists, cluster, doomed[1])
    trials = search(job, Search(trials=TRIALS, sleep_passes=(1, 2), grace=1), max_concurrent=2)
    killer.join()
    alive = sum(node["Alive"] for node in ray.nodes())
    validations = len((output / VALIDATIONS).read_text().split())
    result = {"unseen": unseen, "alive": alive, "validations": validations}
    result["trials"] = [dataclasses.asdict(trial) for trial in trials]
    (root / "result.json").write_text(json.dumps(result))
    ray.shutdown()
    cluster.shutdown()


def shards(root: Path) -> Sequence[Path]:
    return list((root / "lost").glob("*/*/train/part-*"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
