"""A process imports nothing that takes a second for nothing: a user waits for a plan, and a worker for its task."""

import sys
from pathlib import Path

import pytest

from tests.waiting import run

CHECK = "import sys, {module}; found = {needless} & sys.modules.keys(); assert not found, found"


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("pipelines.plan", {"deepspeed", "matplotlib", "optuna", "ray.train", "ray.tune", "torch._dynamo"}),
        ("pipelines.runtime.saved_models", {"matplotlib", "mlflow", "ray.train", "scipy", "torch._dynamo"}),
        ("datagen.generation", {"mlflow", "torch"}),
    ],
)
def test_no_process_imports_what_it_does_not_need(module: str, needless: set[str]) -> None:
    result = run([sys.executable, "-c", CHECK.format(module=module, needless=needless)], cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
