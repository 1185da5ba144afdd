"""A pipeline on a Ray that was started with another version is refused before it does anything."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from pathlib import Path

import pytest
import ray

from tests.waiting import Background, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# a real Ray that says of itself that it is another version, as one of that version does
OTHER_RAY = """
import json, time
import ray
from ray._common.usage import usage_lib, usage_constants
from ray._private import ray_constants

ray.init(address="local", num_cpus=1, include_dashboard=False)
place = dict(namespace=ray_constants.KV_NAMESPACE_CLUSTER)
client = ray._private.worker.global_worker.gcs_client
metadata = json.loads(client.internal_kv_get(usage_constants.CLUSTER_METADATA_KEY, **place))
metadata |= {"ray_version": "2.9.3", "python_version": "3.9.1"}
client.internal_kv_put(usage_constants.CLUSTER_METADATA_KEY, json.dumps(metadata).encode(), True, **place)
print("address", ray.get_runtime_context().gcs_address, flush=True)
time.sleep(1e6)
"""


def test_the_versions_of_both_are_named(tmp_path: Path) -> None:
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex()}
    with Background([sys.executable, "-c", OTHER_RAY], env=environment) as other:
        other.until_it_prints("address ")
        address = other.output().rpartition("address ")[2].split()[0]
        command = [sys.executable, str(ROOT / "pipelines/full.py"), "smoke", "--root", str(tmp_path)]
        refused = run(command, cwd=tmp_path, env=environment | {"RAY_ADDRESS": address})
    assert refused.returncode == 2, refused.stdout + refused.stderr
    message = refused.stderr.splitlines()[-1]  # after Ray's own lines
    ours = f"Ray {ray.__version__}, Python {platform.python_version()}"
    expected = f"error: the Ray cluster was started with Ray 2.9.3, Python 3.9.1, and this process has {ours}: install"
    assert message.startswith(expected)
    assert not (tmp_path / "steps").exists()
