"""Where benchmarks leave their numbers: one JSON file each, with what made them."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datagen.files import replacing
from sleepmodel.ops.machine import vector_flags
from sleepmodel.tracking.provenance import git_commit

ROOT = Path(__file__).resolve().parent
PACKAGES = ("numpy", "pyarrow", "torch", "ray", "deepspeed", "mlflow", "transformers")


def write_result(name: str, payload: dict[str, Any]) -> Path:
    """Writes benchmarks/results/<name>.json, `payload` beside its provenance, and returns its path."""
    path = ROOT / "results" / f"{name}.json"
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"provenance": provenance(), **payload}, indent=2) + "\n")
    return path


def read_result(name: str) -> dict[str, Any]:
    """What `write_result` wrote."""
    found: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text())
    return found


def provenance() -> dict[str, Any]:
    """Commit, versions and processor; nothing that names a machine or a day."""
    return {
        "commit": git_commit(Path(__file__)) or "none",
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "cpu": _cpu_model(),
        "cpu_flags": vector_flags(),
        "cpu_count": len(os.sched_getaffinity(0)),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
