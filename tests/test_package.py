"""What a stranger gets: a wheel that runs with its three dependencies alone, and project files that machines read."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.waiting import run

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PACKAGES = ("datagen", "sleepmodel", "pipelines")
CITATION: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text())
# all that the library exports, and a training step by hand
LIBRARY = """
import sys, torch, datagen, sleepmodel

for name in sleepmodel.__all__:
    getattr(sleepmodel, name)
assert "site-packages" in sleepmodel.__file__, sleepmodel.__file__
mixers = ("attention", "gated_delta")
config = sleepmodel.ModelConfig(vocab_size=3, d_model=16, n_heads=2, mixers=mixers, window=6, fast_heads=1)
model = sleepmodel.SleepModel(config)
rows = datagen.Rule110(cells=6, states=1, steps=1).sample("train", 0, 0, 8)
tokens = torch.from_numpy(rows.tokens.astype("int64"))
mask = torch.zeros_like(tokens, dtype=torch.bool)
mask[:, -1] = True
model(tokens, mask).loss.backward()
"""


def _requirements(name: str) -> set[str]:
    """The distributions that `name` needs here without extras, itself among them."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = canonicalize_name(waiting.pop())
        if current in found:
            continue
        found.add(current)
        needed = map(Requirement, importlib.metadata.requires(current) or ())
        waiting += [n.name for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})]
    return found


def _imported(path: Path) -> set[str]:
    """The top-level packages that a module imports anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    from_ = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | from_}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, for setuptools writes beside its sources."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(built), str(source)]
    built_with = run([sys.executable, "-m", "pip", "wheel", "--quiet", *options])
    assert built_with.returncode == 0, built_with.stderr
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its requirements alone.

    The requirements are links to the files that are installed here: neither an index nor gigabytes are needed. Python
    has no other folder to import from, and pip, which may not look at an index, refuses the wheel where one is missing.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())
    for name in set().union(*(_requirements(Requirement(line).name) for line in PROJECT["dependencies"])):
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (packages / top).is_symlink():  # a namespace belongs to several
                (packages / top).symlink_to(Path(str(distribution.locate_file(top))))
    options = ["--isolated", "--python", str(python), "install", "--quiet", "--no-index", str(wheel)]
    # a PYTHONPATH with this project on it would pass for an installation
    installed = run([sys.executable, "-m", "pip", *options], env=_environment())
    assert installed.returncode == 0, installed.stderr
    return python


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _run(python: Path, code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # -I: not the working directory
    return run([str(python), "-I", "-c", code], cwd=cwd, env=_environment())


@pytest.mark.slow
def test_the_wheel_holds_all_that_runs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sources <= names
    assert {"sleepmodel/ops/gated_delta.cpp"} | {f"{package}/py.typed" for package in PACKAGES} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.slow
def test_nothing_else_can_be_imported_in_the_environment(python: Path, tmp_path: Path) -> None:
    """Else the next tests would prove nothing."""
    for name in ("pyarrow", "rich", "scipy", "ray", "mlflow", "pydantic", "yaml", "matplotlib", "pytest"):
        result = _run(python, f"import {name}", tmp_path)
        assert f"No module named '{name}'" in result.stderr


@pytest.mark.slow
def test_the_library_runs_with_its_dependencies_alone(python: Path, tmp_path: Path) -> None:
    result = _run(python, LIBRARY, tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_first_example_of_the_readme_runs(python: Path, tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.+?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    result = _run(python, example, tmp_path)
    assert result.returncode == 0, result.stderr


def test_every_requirement_is_pinned() -> None:
    pins = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    named = {canonicalize_name(Requirement(line).name) for line in lines} - {"sleepmodel"}
    assert named <= pins, f"pin these in constraints.txt: {sorted(named - pins)}"


def test_every_package_that_the_code_imports_is_a_requirement() -> None:
    """Directly: what a requirement of ours happens to bring today it may not bring tomorrow."""
    distributions = importlib.metadata.packages_distributions()
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    required = {canonicalize_name(Requirement(line).name) for line in lines}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for module in _imported(path) - sys.stdlib_module_names - set(PACKAGES) - {"fla", "triton"}:  # of the extra gpu
            assert required & set(map(canonicalize_name, distributions[module])), f"{path} imports {module}"


def test_nodes_install_what_a_job_imports() -> None:
    (extras,) = re.findall(r"^extras=([\w,]+)$", (ROOT / "cluster/setup.sh").read_text(), re.MULTILINE)
    assert {"pipeline", "s3"} <= set(extras.split(",")) <= set(EXTRAS)
    mounts = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())["file_mounts"].values()
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(mounts)  # setuptools wants them


def test_dev_brings_every_extra_that_the_tests_need() -> None:
    (own,) = [line for line in map(Requirement, EXTRAS["dev"]) if line.name == "sleepmodel"]
    assert own.extras == {"cluster", "docs", "pipeline", "s3"}


def test_the_citation_names_the_paper_and_this_version() -> None:
    assert CITATION["cff-version"] == "1.2.0" and CITATION["title"] == PROJECT["name"]
    assert CITATION["version"] == PROJECT["version"] and CITATION["license"] == PROJECT["license"]
    paper = CITATION["preferred-citation"]
    assert paper["url"] == "https://arxiv.org/abs/2605.26099" and "2605.26099" in PROJECT["description"]
    assert [author["family-names"] for author in paper["authors"]] == ["Lee", "McLeish", "Goldstein", "Fanti"]


def test_the_changelog_tells_of_this_version() -> None:
    versions = re.findall(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["version"]
    assert versions == sorted(versions, key=Version, reverse=True)


def test_the_workflow_runs_what_every_change_must_pass() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]] and os.access(ROOT / ".ci/run", os.X_OK)
    (python,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    assert f"python{python}" in (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"^make ([a-z]+)$", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    assert {"lint", "docs", "examples", "test"} <= commands <= targets


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_and_make_targets_of_the_project_files_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", text, re.MULTILINE)) <= set(targets)
    missing = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if ":" not in link and not (ROOT / link).exists()]
    assert not missing
