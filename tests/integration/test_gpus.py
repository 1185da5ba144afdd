"""A pipeline on a Ray whose GPUs torch cannot use is refused before any work, with the cause."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# a real Ray that is told of a GPU; `full.py` in the same process finds it
COUNTS_A_GPU = """
import sys
import ray
from pipelines.cli import main

ray.init(address="local", num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
sys.argv = ["full.py", "smoke", "--root", sys.argv[1]]
main("full", None)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_a_gpu_that_torch_cannot_use_is_refused_with_the_cause(tmp_path: Path) -> None:
    refused = run([sys.executable, "-c", COUNTS_A_GPU, str(tmp_path)], cwd=ROOT)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    message = refused.stderr.splitlines()[-1]  # after Ray's own lines
    assert message.startswith("error: scale.gpu: Ray counts 1 GPU on node ")
    cause = (
        "the NVIDIA driver is missing" if torch.backends.cuda.is_built() else f"torch {torch.__version__} is a build"
    )
    assert cause in message and "--set scale.gpu=false" in message
    assert not list((tmp_path / "steps").glob("*/*/*"))
