"""No import runs up and none goes in a circle: the contracts in pyproject.toml hold, and each of them can break."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.waiting import run

ROOT = Path(__file__).parents[1]
PACKAGES = ("datagen", "sleepmodel", "pipelines")
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
# the contract that breaks, the module that breaks it, by this line
BREACHES = [
    ("pipelines > sleepmodel > datagen", "sleepmodel/training/loop.py", "import pipelines.plan"),
    ("pipelines > sleepmodel > datagen", "datagen/reader.py", "import sleepmodel.config"),
    ("No package has a circle", "sleepmodel/mixers/base.py", "import sleepmodel.mixers.attention"),
    ("The layers of sleepmodel", "sleepmodel/model.py", "import sleepmodel.inference.session"),
    ("The layers of sleepmodel", "sleepmodel/training/loop.py", "import sleepmodel.inference.session"),
    ("The layers of pipelines", "pipelines/stages/train.py", "import pipelines.cli"),
    ("The layers of pipelines", "pipelines/plan.py", "import pipelines.full"),
    ("pipelines.engine knows no machine learning", "pipelines/engine/stage.py", "import torch"),
    ("sleepmodel reads datasets, whatever the task", "sleepmodel/evaluation/accuracy.py", "import datagen.rule110"),
    (
        "Modules of datagen and sleepmodel import modules, not these packages",
        "sleepmodel/evaluation/accuracy.py",
        "from sleepmodel import SleepModel",
    ),
    (
        "A model is trained by hand, saved and used with numpy, safetensors and torch alone",
        "sleepmodel/training/loop.py",
        "import datagen.reader",
    ),
    ("MLflow stays behind sleepmodel.tracking", "pipelines/stages/register.py", "import mlflow"),
    ("DeepSpeed and Optuna stay behind sleepmodel.distributed", "pipelines/stages/tune.py", "import optuna"),
    (
        "Ray stays behind datagen.cluster, datagen.ray_tasks, sleepmodel.distributed and pipelines.runtime",
        "pipelines/stages/generate.py",
        "import ray",
    ),
]


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return run(command, cwd=folder)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_every_contract_holds() -> None:
    result = _lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_is_tried_below() -> None:
    assert {contract["name"] for contract in CONTRACTS} == {contract for contract, _, _ in BREACHES}


@pytest.mark.parametrize(("contract", "module", "line"), BREACHES)
def test_a_breach_is_seen(copy: Path, contract: str, module: str, line: str) -> None:
    path = copy / module
    source = path.read_text()
    path.write_text(f"{source}\n{line}\n")
    try:
        result = _lint(copy)
    finally:
        path.write_text(source)
    assert result.returncode == 1 and f"{contract} BROKEN" in " ".join(result.stdout.split())


@pytest.mark.parametrize("package", ["sleepmodel", "pipelines"])
def test_a_module_without_a_layer_is_seen(copy: Path, package: str) -> None:
    path = copy / package / "homeless.py"
    path.touch()
    try:
        result = _lint(copy)
    finally:
        path.unlink()
    assert result.returncode == 1 and f"{package}.homeless" in result.stdout
