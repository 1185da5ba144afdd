"""Each address that a run is given, where nothing answers: an error that names it, in seconds."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.store import free_ports
from tests.waiting import Background, run, scaled

HOST = "127.0.0.2"  # Ray takes 127.0.0.1 for the address of this node
LONGEST = 10  # seconds on an idle machine; without our limits each of these takes minutes

# what is looked for at the addresses of many environments, one after another
PROGRAM = """
import json, os, sys, time

if sys.argv[1] == "ray":
    from datagen.cluster import connect_to_ray as look
elif sys.argv[1] == "store":
    from datagen.storage import as_path, check_reachable
    look = lambda: check_reachable(as_path("s3://bucket/runs"))
else:
    from pathlib import Path
    from sleepmodel.tracking.runs import open_store
    look = lambda: open_store(Path(sys.argv[3]))

def said(environment):
    os.environ.update(environment)
    begin = time.monotonic()
    try:
        look()
    except (OSError, ValueError) as error:
        return time.monotonic() - begin, str(error)
    finally:
        for name in environment:
            del os.environ[name]

print(json.dumps([said(environment) for environment in json.loads(sys.argv[2])]))
"""


class Addresses:
    """silent: one can connect, and it never answers; refusing: nothing listens; web: a server of another kind; file:
    of a Ray that was killed."""

    def __init__(self, directory: Path, silent: str, web: str) -> None:
        self.directory, self.silent, self.web = directory, silent, web
        (port,) = free_ports(1)
        self.refusing = f"{HOST}:{port}"
        self.file = directory / "ray" / "ray_current_cluster"
        self.file.parent.mkdir()
        self.file.write_text(self.refusing)
        asked: dict[str, list[dict[str, str]]] = {
            "ray": [
                *({"RAY_ADDRESS": address} for address in (self.refusing, silent, web)),
                *({"RAY_ADDRESS": address} for address in ("nowhere.invalid:6379", "banana")),
                *({"RAY_ADDRESS": address} for address in ("ray://10.0.0.1:10001", "http://127.0.0.1:8265")),
                {"RAY_TMPDIR": str(directory)},
            ],
            "store": [{"AWS_ENDPOINT_URL": f"http://{silent}"}],
            "mlflow": [{"MLFLOW_TRACKING_URI": f"http://{silent}"}],
        }
        with ThreadPoolExecutor() as together:
            answers = together.map(self._ask, asked, asked.values())
            self._said = {one: said for told in answers for e, said in told for one in e.items()}

    def _ask(self, kind: str, environments: list[dict[str, str]]) -> list[tuple[dict[str, str], tuple[float, str]]]:
        clean = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_TMPDIR")}
        access = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        command = [sys.executable, "-c", PROGRAM, kind, json.dumps(environments), str(self.directory)]
        done = run(command, env=clean | access)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return list(zip(environments, json.loads(done.stdout), strict=True))

    def said(self, address: str, variable: str = "RAY_ADDRESS") -> str:
        """The error about an address; asserts that it came in time."""
        seconds, message = self._said[variable, address]
        print(f"{variable}={address}: {seconds:.1f} s")
        assert seconds < scaled(LONGEST)
        return message


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    directory, (port,) = tmp_path_factory.mktemp("addresses"), free_ports(1)
    server = [sys.executable, "-m", "http.server", str(port), "--bind", HOST]
    with socket.create_server((HOST, 0), backlog=100) as listening, Background(server, cwd=directory) as web:
        web.until(lambda: _answers(port), "the web server")
        yield Addresses(directory, f"{HOST}:{listening.getsockname()[1]}", f"{HOST}:{port}")


def _answers(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection((HOST, port), timeout=scaled()):
        return True
    return False


@pytest.mark.parametrize("kind", ["refusing", "silent", "web"])
def test_a_ray_that_is_not_there_is_named_with_the_way_on(addresses: Addresses, kind: str) -> None:
    address = getattr(addresses, kind)
    message = addresses.said(address)
    assert message.startswith(f"RAY_ADDRESS={address}: no Ray answers there (") and "unset RAY_ADDRESS" in message


def test_the_file_of_a_ray_that_was_killed_is_named(addresses: Addresses) -> None:
    message = addresses.said(str(addresses.directory), "RAY_TMPDIR")
    assert message.startswith(f"{addresses.file} names a Ray at {addresses.refusing}, which does not answer")
    assert "`ray stop`" in message and "RAY_ADDRESS=local" in message


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ray://10.0.0.1:10001", "must be host:port of a Ray head"),
        ("http://127.0.0.1:8265", "must be host:port of a Ray head"),
        ("nowhere.invalid:6379", "no Ray answers there"),
        ("banana", "must be host:port, auto or local"),
    ],
)
def test_what_is_no_address_of_a_ray(addresses: Addresses, address: str, words: str) -> None:
    message = addresses.said(address)
    assert message.startswith(f"RAY_ADDRESS={address}: ") and words in message


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "MLFLOW_TRACKING_URI"])
def test_a_store_or_an_mlflow_that_does_not_answer(addresses: Addresses, variable: str) -> None:
    message = addresses.said(f"http://{addresses.silent}", variable)
    assert addresses.silent in message and variable in message
