"""What all tests share: one local Ray for the whole session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import ray
import torch
from hypothesis import settings

# models here are so small that a second thread only costs time
torch.set_num_threads(1)
settings.register_profile("fuzz", max_examples=2000)  # of `make fuzz`


def pytest_itemcollected(item: pytest.Item) -> None:
    """All that needs the session's Ray is slow, so that the others can run beside it without a Ray."""
    if "ray_cluster" in getattr(item, "fixturenames", ()):
        item.add_marker("slow")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """The address of a local Ray with four logical CPUs, to which this process is connected."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
