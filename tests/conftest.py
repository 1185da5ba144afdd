"""What all tests share: one local Ray for the whole session, in one of the processes that run them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
import torch
from hypothesis import settings

# models here are so small that a second thread only costs time
torch.set_num_threads(1)
settings.register_profile("fuzz", max_examples=2000)  # of `make fuzz`


@pytest.hookimpl(tryfirst=True)  # before xdist, in its own, reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What drives Ray runs in one process, one test after the other, on the session's one Ray."""
    for item in items:
        if item.get_closest_marker("slow") or "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a local Ray with four logical CPUs, to which this process is connected."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
