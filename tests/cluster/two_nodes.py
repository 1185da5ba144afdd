"""The program of test_jobs.py: the smoke pipeline as a Ray job on two nodes, stopped as it trains and submitted again.

    python -m tests.cluster.two_nodes ROOT

It is the driver, as a cluster is started from the main thread of a process that is in no other.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient
from ray.util.state import list_actors, list_tasks

from sleepmodel.distributed.checkpoints import latest
from sleepmodel.distributed.ray_worker import CHECKPOINTS
from tests.waiting import Background, scaled, wait_for

# A core a node: two workers, trials or shards at once are on two nodes. The rows take long to make, so that the first
# node has not made them all before the second has started.
ARGUMENTS = "smoke --set seeds=[20] task.steps=1024 data.train_rows=98304 train.steps=60 train.validate_every=5"
COMMAND = f"python pipelines/full.py {ARGUMENTS} scale.workers=2 search=null"
SEARCH = f"python pipelines/tune.py {ARGUMENTS} search.trials=2 search.grace=1"

# commands of docs/operating.md
LOOKS = (
    "ray job list",
    "ray job logs --follow JOB",
    "ray status",
    "ray list nodes",
    "ray list actors",
    "ray summary tasks",
)
SERVERS = (
    "tensorboard --logdir $SLEEPMODEL_ROOT/steps/tune",
    "mlflow ui --backend-store-uri sqlite:///$SLEEPMODEL_ROOT/mlflow.db",
)


def look(command: str, job: str) -> str:
    """What a command of the page prints; it has to succeed."""
    return subprocess.run(command.replace("JOB", job), shell=True, check=True, text=True, stdout=subprocess.PIPE).stdout


def serve(command: str) -> str:
    """The page of a server of docs/operating.md."""
    port = free_port()
    pages: list[str] = []

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=scaled(5)) as page:
            pages.append(str(page.read(), "utf-8"))
        return bool(pages)

    with Background(["sh", "-c", f"exec {command} --port {port}"]) as server:
        server.until(answers, f"a page at port {port}")
    return pages[0]


def nodes() -> dict[str, set[str]]:
    """The nodes on which shards were made, trials run, and models trained, as Ray's state API has it.

    A trial of Tune is an actor of its class ImplicitFunc.
    """
    tasks = list_tasks(filters=[("name", "=", "ensure_shard")], detail=True, limit=1000)
    actors = list_actors(detail=True, limit=1000)
    return {
        "generation": {task.node_id for task in tasks},
        "search": {actor.node_id for actor in actors if actor.class_name == "ImplicitFunc"},
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
    def holds() -> bool:
        status = client.get_job_status(job)
        held = condition(status)
        assert held or not status.is_terminal(), client.get_job_logs(job)
        return held

    wait_for(holds, f"job {job}", limit=800)


def main(root: Path) -> None:
    # port 0 is any: a Ray of somebody else may run here
    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_port": free_port(), "dashboard_agent_listen_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False)
    os.environ |= {"RAY_ADDRESS": cluster.address, "RAY_API_SERVER_ADDRESS": f"http://{cluster.head_node.webui_url}"}
    client = JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
    wait_for(lambda: agents(client), "an agent that can run jobs")

    def saved() -> int:
        found = [latest(path) for path in root.glob(f"steps/train-*/*/{CHECKPOINTS}")]
        return max((checkpoint.step for checkpoint in found if checkpoint), default=0)

    stopped = client.submit_job(entrypoint=COMMAND)
    wait(client, stopped, lambda _: saved() > 0)
    client.stop_job(stopped)
    wait(client, stopped, lambda status: status == JobStatus.STOPPED)
    at = saved()
    resumed = client.submit_job(entrypoint=COMMAND)
    wait(client, resumed, lambda status: status == JobStatus.SUCCEEDED)
    searched = client.submit_job(entrypoint=SEARCH)
    wait(client, searched, lambda status: status == JobStatus.SUCCEEDED)
    result = {
        "stopped": client.get_job_logs(stopped),
        "at": at,
        "resumed": client.get_job_logs(resumed),
        "searched": client.get_job_logs(searched),
        "looks": {command: look(command, resumed) for command in LOOKS},
        "served": {command: serve(command) for command in SERVERS},
        "nodes": {what: sorted(where) for what, where in nodes().items()},
        "all": sorted(node["NodeID"] for node in ray.nodes()),
    }
    (root / "result.json").write_text(json.dumps(result))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
