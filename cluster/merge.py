"""Print ray_cluster.yaml with overrides merged over it, as RFC 7396 merges JSON: mappings key by key, null removes.

python cluster/merge.py OVERRIDES.yaml [MORE.yaml ...] > my_cluster.yaml
"""

import sys
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).parents[1] / "ray_cluster.yaml"


def merged(base: Any, patch: Any) -> Any:
    """`base` with `patch` over it; neither is changed."""
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
