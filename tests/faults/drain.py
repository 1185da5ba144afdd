"""The program of test_drain.py: two workers train on two of three nodes, and the node of one is announced to be taken
away, between two reports, and then is.

    python -m tests.faults.drain ROOT

It is the driver, as a cluster is started from the main thread of a process that is in no other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from datagen import generate
from sleepmodel import SleepModel
from sleepmodel.config.training import Scale
from sleepmodel.distributed.checkpoints import latest
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.distributed.ray_train import fit
from sleepmodel.distributed.ray_worker import CHECKPOINTS, DRAIN_SECONDS
from sleepmodel.tracking.runs import open_store, start_run
from sleepmodel.training.engine import Engine
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK
from tests.waiting import in_thread, wait_for

AT = CONFIG.validate_every + 2  # a step without a report
marks: list[Path] = []  # of this process, if it is a worker


class Watched(TrainingJob):
    """Each worker leaves a file named by its node and the last checkpoint, with a character for each step that it ends,
    and waits at step AT until its node is announced."""

    def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
        checkpoint = latest(Path(self.output) / CHECKPOINTS)
        node = ray.get_runtime_context().get_node_id()
        marks.append(Path(self.output) / f"node-{node}-{checkpoint.step if checkpoint else 0}")
        return super().validate(engine)

    def asked_to_stop(self) -> bool:
        announced = Path(self.output) / "announced"
        for mark in marks:
            with mark.open("a") as file:
                file.write(".")
            if mark.stat().st_size == AT and not announced.exists():
                while not announced.exists():
                    time.sleep(0.1)
                time.sleep(2 * DRAIN_SECONDS)  # the next look is a new one
        return super().asked_to_stop()


def main(root: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    doomed = cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False)
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    store = open_store(root)

    def start(kind: type[TrainingJob], name: str) -> Future[None]:
        output = root / name
        output.mkdir()
        job = kind(name, MODEL, CONFIG, str(dataset), str(output), scale=Scale(workers=2), store=store)
        return in_thread(fit, replace(job, run=start_run(store, name, name, None, {}, {})))

    start(TrainingJob, "undisturbed").result()
    drained, output = start(Watched, "drained"), root / "drained"
    wait_for(lambda: [at.stat().st_size for at in output.glob("node-*")] == [AT, AT], f"both workers at step {AT}")
    spare = cluster.add_node(num_cpus=1)
    announce(cluster.address, doomed.node_id)
    (output / "announced").touch()
    wait_for((output / f"node-{spare.node_id}-{AT}").exists, "a worker on the third node")
    cluster.remove_node(doomed)
    drained.result()
    names = {cluster.head_node.node_id: "head", doomed.node_id: "doomed", spare.node_id: "spare"}
    found = [(*path.name.split("-")[1:], path.stat().st_size) for path in output.glob("node-*")]
    attempts = sorted([names[node], int(checkpoint), steps] for node, checkpoint, steps in found)
    (root / "result.json").write_text(json.dumps(attempts))
    ray.shutdown()
    cluster.shutdown()


def announce(address: str, node: str) -> None:
    """As docs/cluster.md has it."""
    command = ["ray", "drain-node", f"--address={address}", f"--node-id={node}"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=120"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
