"""A real S3 server on loopback: SeaweedFS, from a package, with one bucket."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.waiting import Background

BUCKET = "runs"
WEED = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
KEY, SECRET = "sleeper", "not-a-secret"
PARTS = ("master", "volume", "filer", "s3", "admin")


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def credentials(port: int) -> dict[str, str]:
    """The environment in which all AWS clients find the server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@contextmanager
def serving(directory: Path, port: int) -> Iterator[None]:
    """The server at a port, until the end."""
    assert WEED is not None
    identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    ports = dict(zip([*PARTS, *(f"{part}.grpc" for part in PARTS)], free_ports(2 * len(PARTS)), strict=True))
    ports["s3"] = port
    options = [f"-{name.partition('.')[0]}.port{'.grpc' * name.endswith('.grpc')}={at}" for name, at in ports.items()]
    for off in ("master.telemetry", "s3.autoCreateBucket", "s3.iam", "webdav", "admin.ui"):
        options.append(f"-{off}=false")
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}", f"-bucket={BUCKET}"]
    command = [WEED, "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *options]
    with Background(command, cwd=directory) as server:
        server.until(lambda: _listens(port), f"an S3 server at port {port}")
        server.until_it_prints("All enabled components")  # it listens before its bucket is made
        yield


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
