"""What ray_cluster.yaml promises, held against Ray's own code without a cloud."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.aws.config import _create_default_inbound_rules
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.scripts.scripts import cli

from cluster.merge import CLUSTER, merged
from tests.cluster.spot import metadata_service
from tests.waiting import run

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load(CLUSTER.read_text())
ON_PREMISE = merged(FILE, yaml.safe_load((ROOT / "cluster/on_premise.yaml").read_text()))
GPU, CPU = {"GPU": 1, "CPU": 1}, {"CPU": 32}


def launched(request: dict[str, float], count: int, available: dict[str, float] | None = None) -> dict[str, int]:
    """How many nodes of each type Ray's autoscaler starts for `count` requests, on top of a busy head."""
    config = AutoscalingConfig(prepare_config(FILE), skip_content_hash=True)
    requests = [ResourceRequestUtil.make(request)] * count
    asked = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(requests),
        recoverable_resource_availabilities=available or {},
    )
    answer = ResourceDemandScheduler(None).schedule(asked)
    return {launch.instance_type: launch.count for launch in answer.to_launch}


def environment_of(command: str, home: Path) -> dict[str, str]:
    """What `ray` finds in its environment where a start command of the file calls it, on a node with this home."""
    (home / "sleepmodel").mkdir()
    (home / "sleepmodel/cluster").symlink_to(ROOT / "cluster")
    (home / "sleepmodel.env").write_text((ROOT / "cluster/aws.env").read_text())
    programs = home / "sleepmodel/.venv/bin"
    programs.mkdir(parents=True)
    (programs / "ray").write_text("#!/bin/sh\nenv\n")
    (programs / "curl").write_text("#!/bin/sh\n")  # MLflow's server is up
    for program in programs.iterdir():
        program.chmod(0o755)
    given = {"HOME": str(home), "PATH": "/usr/bin:/bin", "SSH_CONNECTION": "192.0.2.9 50000 192.0.2.1 22"}
    found = subprocess.run(["bash", "-c", command], env=given, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return dict(line.split("=", 1) for line in found.stdout.splitlines() if "=" in line)


@pytest.mark.parametrize("config", [FILE, ON_PREMISE], ids=["aws", "on_premise"])
def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_spot_is_asked_for_first_and_on_demand_where_there_is_none() -> None:
    assert launched(GPU, 2) == {"gpu-spot": 2}
    assert launched(GPU, 2, {"gpu-spot": 0.1}) == {"gpu-on-demand": 2}
    assert launched(CPU, 3) == {"cpu-spot": 3}
    assert launched(CPU, 3, {"cpu-spot": 0.1}) == {"cpu-on-demand": 3}
    types = FILE["available_node_types"]
    markets = {name: kind["node_config"].get("InstanceMarketOptions") for name, kind in types.items()}
    assert {name for name, market in markets.items() if market} == {"gpu-spot", "cpu-spot"}


def test_more_work_than_spot_has_room_for_goes_to_both_and_no_further() -> None:
    room = FILE["available_node_types"]["gpu-spot"]["max_workers"]
    assert launched(GPU, room + 1) == {"gpu-spot": room, "gpu-on-demand": 1}
    assert sum(launched(CPU, 1000).values()) <= FILE["max_workers"]


def test_nothing_but_ssh_is_open_to_the_world() -> None:
    config = prepare_config(FILE)
    extra = config["provider"].get("security_group", {}).get("IpPermissions", [])
    rules = _create_default_inbound_rules({"sg-cluster"}, extra)
    assert [rule["FromPort"] for rule in rules if rule.get("IpRanges") or rule.get("Ipv6Ranges")] == [22]
    for kind in config["available_node_types"].values():
        assert not kind["node_config"].keys() & {"SecurityGroupIds", "NetworkInterfaces"}
    told = CLUSTER.read_text() + "".join(path.read_text() for path in (ROOT / "cluster").iterdir() if path.is_file())
    assert "0.0.0.0" not in told and "--ray-client-server-port" not in told
    (start,) = (command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in start.split()


@pytest.mark.parametrize("kind", ["head", "worker"])
@pytest.mark.parametrize("config", [FILE, ON_PREMISE], ids=["aws", "on_premise"])
def test_every_ray_of_every_node_wants_the_token_and_tls(config: dict[str, Any], kind: str, tmp_path: Path) -> None:
    commands = config[f"{kind}_start_ray_commands"]
    assert [re.findall(r"ray (stop|start)", command) for command in commands] == [["stop"], ["start"]]
    for number, command in enumerate(commands):
        home = tmp_path / str(number)
        home.mkdir()
        found = environment_of(command, home)
        assert found["RAY_AUTH_MODE"] == "token" and found["RAY_USE_TLS"] == "1"
        assert found["RAY_TLS_SERVER_CERT"] == f"{home}/.ray/tls/192.0.2.1.crt"
    mounts = config["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token" and mounts["~/.ray/tls"] == "~/.ray/tls"


def test_jobs_find_the_shared_root_and_mlflow(tmp_path: Path) -> None:
    """A job runs in the environment and the directory of the head's `ray start`."""
    found = environment_of(FILE["head_start_ray_commands"][1], tmp_path)
    assert found["SLEEPMODEL_ROOT"].startswith("s3://") and found["MLFLOW_TRACKING_URI"] == "http://192.0.2.1:5000"
    assert found["PWD"] == f"{tmp_path}/sleepmodel"
    assert found["PATH"].startswith(f"{tmp_path}/sleepmodel/.venv/bin:")


def test_an_mlflow_server_of_yours_is_used(tmp_path: Path) -> None:
    found = environment_of("export MLFLOW_TRACKING_URI=https://yours; " + FILE["head_start_ray_commands"][1], tmp_path)
    assert found["MLFLOW_TRACKING_URI"] == "https://yours"


@pytest.mark.parametrize("fails", [0, 2])
@pytest.mark.parametrize(("life_cycle", "drains"), [("spot", True), ("on-demand", False), (None, False)])
def test_a_spot_node_that_aws_takes_back_is_drained(
    life_cycle: str | None, drains: bool, fails: int, tmp_path: Path
) -> None:
    for name, does in {"ray": 'printf "%s\\n" "$@"', "sleep": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    with metadata_service(life_cycle, fails) as (settings, questions):
        settings |= {"RAY_HEAD_IP": "192.0.2.1", "PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = run(["bash", str(ROOT / "cluster/spot.sh")], env=settings)
    assert done.returncode == 0, done.stderr
    asked = ["instance-life-cycle"] * (fails + 1) + ["spot/instance-action"] * (fails + 3 if drains else 0)
    assert questions == asked
    assert done.stderr.count("does not answer") == (fails > 0) + (fails > 0 and drains)  # once each time
    assert ("--reason=DRAIN_NODE_REASON_PREEMPTION" in done.stdout) == drains
    if drains:
        command, *words = done.stdout.splitlines()
        cli.commands[command].make_context(command, words)  # Ray's own command line can read it


def test_nodes_install_from_the_pins() -> None:
    (setup,) = FILE["setup_commands"]
    script = (ROOT / setup.split()[-1].removeprefix("~/sleepmodel/")).read_text()
    assert "make -C ~/sleepmodel install" in script and "pip install" not in script
    for command in re.findall(r"-m pip install (.+)", (ROOT / "Makefile").read_text()):
        assert "--constraint constraints.txt" in command or command == "-qq --upgrade pip"
    mounted = set(FILE["file_mounts"].values())
    assert {"Makefile", "constraints.txt", "pyproject.toml", "README.md", "cluster"} <= mounted
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= mounted
    assert all((ROOT / path).exists() for path in mounted if not path.startswith("~"))


def test_null_takes_a_key_away_and_nothing_is_changed() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1, 2]}
    assert merged(base, {"a": {"b": None, "e": 3}, "d": [4]}) == {"a": {"c": 2, "e": 3}, "d": [4]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1, 2]}
