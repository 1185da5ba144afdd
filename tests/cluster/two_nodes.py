"""The program of test_jobs.py: the smoke pipeline as a Ray job on two nodes, stopped while it trains and submitted again.

    python -m tests.cluster.two_nodes ROOT

It is the driver, as a cluster is started from the main thread of a process that is in no other.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors, list_tasks

from sleepmodel.checkpoints import last
from sleepmodel.distributed import CHECKPOINTS

# A core a node: two workers, trials or shards at once are on two nodes. The rows take long to make, so that the first
# node has not made them all before the second has started.
COMMAND = (
    "python pipelines/full.py smoke --set seeds=[20] task.steps=1024 data.train_rows=98304 train.steps=60 train.validate_every=5 "
    "scale.workers=2 search.trials=2 search.grace=1"
)


def nodes() -> dict[str, set[str]]:
    """The nodes on which shards were made, trials run, and models trained, as Ray's state API has it."""
    tasks = list_tasks(filters=[("name", "=", "ensure_shard")], detail=True, limit=1000)
    actors = list_actors(detail=True, limit=1000)
    print({a.class_name for a in actors}, {t.name for t in list_tasks(limit=1000)})
    return {
        "generation": {task.node_id for task in tasks},
        "search": {actor.node_id for actor in actors if actor.class_name == "_trial"},
        "training": {actor.node_id for actor in actors if actor.class_name == "RayTrainWorker"},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def agents(client: JobSubmissionClient) -> bool:
    """Whether the dashboard knows of an agent that could run a job."""
    try:
        client.submit_job(entrypoint="true")
    except RuntimeError:
        return False
    return True


def wait(client: JobSubmissionClient, job: str, condition: Callable[[JobStatus], bool]) -> None:
    while not condition(status := client.get_job_status(job)):
        assert not status.is_terminal(), client.get_job_logs(job)
        time.sleep(0.5)


def main(root: Path) -> None:
    # port 0 is any: a Ray of somebody else may run here
    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": free_port(), "dashboard_agent_listen_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False)
    client = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
    while not agents(client):
        time.sleep(0.5)

    def saved() -> int:
        found = [last(path) for path in root.glob(f"steps/train-*/*/{CHECKPOINTS}")]
        return max((checkpoint.step for checkpoint in found if checkpoint), default=0)

    stopped = client.submit_job(entrypoint=COMMAND)
    wait(client, stopped, lambda _: saved() > 0)
    client.stop_job(stopped)
    wait(client, stopped, lambda status: status == JobStatus.STOPPED)
    at = saved()
    resumed = client.submit_job(entrypoint=COMMAND)
    wait(client, resumed, lambda status: status == JobStatus.SUCCEEDED)
    result = {
        "stopped": client.get_job_logs(stopped),
        "at": at,
        "resumed": client.get_job_logs(resumed),
        "nodes": {what: sorted(where) for what, where in nodes().items()},
        "all": sorted(node["NodeID"] for node in ray.nodes()),
    }
    (root / "result.json").write_text(json.dumps(result))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
