"""Print ray_cluster.yaml with overrides merged into it by JSON merge patch (RFC 7396): a null removes its key.

python cluster/merge.py OVERRIDES.yaml [MORE.yaml ...] > my_cluster.yaml
"""

import sys
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).parents[1] / "ray_cluster.yaml"


def merged(base: Any, patch: Any) -> Any:
    """A new document: `base` with `patch` applied."""
    if not isinstance(patch, dict):
        return patch
    base = base if isinstance(base, dict) else {}
    whole = base | {key: merged(base.get(key), value) for key, value in patch.items()}
    return {key: value for key, value in whole.items() if value is not None}


if __name__ == "__main__":
    cluster = yaml.safe_load(CLUSTER.read_text())
    for path in sys.argv[1:]:
        cluster = merged(cluster, yaml.safe_load(Path(path).read_text()))
    yaml.safe_dump(cluster, sys.stdout, sort_keys=False)
