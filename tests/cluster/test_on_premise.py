"""ray_cluster.yaml with cluster/on_premise.yaml over it, brought up for real: two machines, SSH, every command of the
file. It takes minutes, so `make cluster` runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml
from mlflow import MlflowClient

from tests.cluster.machines import HEAD, WORKER, machines, obstacle
from tests.cluster.spot import metadata_service
from tests.waiting import run, scaled, wait_for

ROOT = Path(__file__).parents[2]
# two machines that share a loopback, with who knows what else; elsewhere Ray's own ports are free
DASHBOARD, AGENTS = 8399, {"head": 8400, "worker": 8401}
SUBMIT = ("ray", "job", "submit", "--address", f"http://127.0.0.1:{DASHBOARD}", "--")
# a training worker needs two of a machine's cores, and so do its trials: one a machine
PIPELINE = ("python", "pipelines/full.py", "smoke", "--set", "seeds=[20]", "scale.workers=2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif("MAKE_CLUSTER" not in os.environ, reason="takes minutes: make cluster"),
]


class Cluster:
    """What somebody does with a cluster from a machine of his own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.root, self.home = directory / "root", directory / "home"
        self.file = directory / "cluster.yaml"
        self.environment = {**environment, "RAY_UP_enable_autoscaler_v2": "0", "RAY_AUTH_MODE": "token"}
        environment_file, overrides = directory / "node.env", directory / "overrides.yaml"
        environment_file.write_text(
            (ROOT / "cluster/on_premise.env").read_text().replace("/srv/sleepmodel", str(self.root))
        )
        file = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
        ports = {kind: f"ray start --dashboard-agent-listen-port={port}" for kind, port in AGENTS.items()}
        ports["head"] += f" --dashboard-port={DASHBOARD}"
        patch = {
            "cluster_name": directory.name,
            "provider": {"head_ip": HEAD, "worker_ips": [WORKER]},
            "auth": {"ssh_user": os.environ.get("USER", "root"), "ssh_private_key": str(directory / "key")},
            "file_mounts": {"~/sleepmodel.env": str(environment_file)},
            **{
                f"{kind}_start_ray_commands": [
                    command.replace("ray start", start) for command in file[f"{kind}_start_ray_commands"]
                ]
                for kind, start in ports.items()
            },
        }
        overrides.write_text(yaml.safe_dump(patch))
        self.run("bash", "cluster/keys.sh")
        merged = self.run(sys.executable, "cluster/merge.py", "cluster/on_premise.yaml", str(overrides))
        self.file.write_text(merged)

    def run(self, *command: str, **environment: str) -> str:
        done = run(command, limit=900, cwd=ROOT, env=self.environment | environment)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout

    def on_head(self, command: str) -> str:
        return self.run("ray", "exec", "--no-config-cache", str(self.file), command)

    def nodes(self) -> dict[str, str]:
        """Each node's address and state."""
        printed = self.on_head("ray list nodes --format json")
        return dict(re.findall(r'"node_ip": "([\d.]+)".*?"state": "(\w+)"', printed, re.DOTALL))

    def trained_on(self) -> set[str]:
        """The addresses of the nodes that Ray Train's workers ran on."""
        actors = self.on_head("ray list actors --detail --format json --limit 1000 --filter class_name=RayTrainWorker")
        used, nodes = set(re.findall(r'"node_id": "(\w+)"', actors)), self.on_head("ray list nodes --format json")
        addresses = re.findall(r'"node_id": "(\w+)".*?"node_ip": "([\d.]+)"', nodes, re.DOTALL)
        return {address for node, address in addresses if node in used}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := obstacle():
        pytest.skip(f"no machines here: {reason}")
    directory = tmp_path_factory.mktemp("cluster")
    with machines(directory) as environment:
        cluster = Cluster(directory, environment)
        cluster.run("ray", "up", "-y", "--no-config-cache", str(cluster.file))
        try:
            wait_for(lambda: cluster.nodes() == {HEAD: "ALIVE", WORKER: "ALIVE"}, "both nodes")
        except AssertionError as error:
            error.add_note(cluster.on_head("cat /tmp/ray/session_latest/logs/monitor.out"))
            raise
        yield cluster
        cluster.run("ray", "down", "-y", str(cluster.file))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", DASHBOARD), timeout=scaled(5))
    shutil.rmtree(cluster.home)  # two gigabytes of packages


def test_nodes_have_the_pinned_packages(cluster: Cluster) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    python = cluster.home / "sleepmodel/.venv/bin/python"
    installed = json.loads(cluster.run(str(python), "-m", "pip", "list", "--format", "json"))
    versions = {package["name"]: package["version"].split("+")[0] for package in installed}
    assert {"torch", "ray", "deepspeed", "mlflow", "boto3"} <= versions.keys()
    different = {name: version for name, version in versions.items() if pins.get(name, version) != version}
    assert not different


def test_a_job_uses_both_nodes_and_leaves_all_in_the_root_and_in_mlflow(cluster: Cluster) -> None:
    printed = cluster.run(*SUBMIT, *PIPELINE, "scale.cpus_per_worker=2")
    assert f"everything goes to {cluster.root}" in printed and "@champion" in printed
    assert cluster.trained_on() == {HEAD, WORKER}
    assert len(list(cluster.root.glob("steps/*/*/SUCCESS"))) == 8
    client = MlflowClient(f"http://{HEAD}:5000")
    (experiment,) = (found for found in client.search_experiments() if found.name == "sleepmodel")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + 8 + 2 and {run.info.status for run in runs} == {"FINISHED"}
    assert client.get_model_version_by_alias("sleep-rule110", "champion").version
    wait_for(lambda: logged(cluster.root / "mlflow-snapshot.db") == len(runs), "a snapshot of MLflow's database")
    # as a browser asks that comes through SSH
    asked = Request(f"http://{HEAD}:5000/health", headers={"Host": "localhost:5000"})
    with urlopen(asked, timeout=scaled(30)) as answer:
        assert answer.status == 200


def logged(database: Path) -> int:
    """How many runs are in a database."""
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()[0])


def test_who_has_no_token_or_no_certificate_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """The same command with both is answered."""
    stranger = {**cluster.environment, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    listed = run(["ray", "job", "list", "--address", f"http://127.0.0.1:{DASHBOARD}"], env=stranger)
    assert listed.returncode != 0 and "Authentication" in listed.stderr + listed.stdout
    keys = cluster.home / ".ray"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": (keys / "auth_token").read_text().strip()}
    files = {"CA_CERT": "ca.crt", "SERVER_CERT": f"{HEAD}.crt", "SERVER_KEY": f"{HEAD}.key"}
    tls = {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{name}": str(keys / "tls" / file) for name, file in files.items()}
    openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=me -keyout key -out crt"
    assert run(openssl.split(), cwd=tmp_path).returncode == 0
    # whoever does not know the cluster's authority, though it trusts the head
    own = tls | {f"RAY_TLS_SERVER_{kind}": str(tmp_path / name) for kind, name in (("CERT", "crt"), ("KEY", "key"))}

    def status(*settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = stranger | {name: value for each in settings for name, value in each.items()}
        return run(["ray", "status", "--address", f"{HEAD}:6379"], env=environment)

    answered = status(token, tls)
    assert answered.returncode == 0 and "2 local.cluster.node" in answered.stdout, answered.stdout + answered.stderr
    for settings in ((token,), (tls,), (token, own)):
        refused = status(*settings)
        assert refused.returncode != 0 and "local.cluster.node" not in refused.stdout, refused.stdout


def test_the_dashboard_answers_on_loopback_alone(cluster: Cluster) -> None:
    socket.create_connection(("127.0.0.1", DASHBOARD), timeout=scaled(5)).close()
    with pytest.raises(OSError):
        socket.create_connection((HEAD, DASHBOARD), timeout=scaled(5)).close()


def test_a_spot_worker_that_is_taken_back_leaves(cluster: Cluster) -> None:
    """The last test, as nothing runs on the worker any more: a drained node that is idle leaves at once."""
    with metadata_service("spot") as (settings, _):
        variables = " ".join(f"{name}={value}" for name, value in {**settings, "RAY_HEAD_IP": HEAD}.items())
        login = ("ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", WORKER)
        cluster.run(*login, f". ~/sleepmodel.env && {variables} bash ~/sleepmodel/cluster/spot.sh")
    wait_for(lambda: cluster.nodes() == {HEAD: "ALIVE", WORKER: "DEAD"}, "the worker's end")
