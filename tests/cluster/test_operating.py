"""docs/operating.md shows pictures that are there and commands that a test runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import cli

from tests.cluster.two_nodes import LOOKS, SERVERS

PAGE = Path(__file__).parents[2] / "docs/operating.md"
COMMANDS = [
    line for block in re.findall(r"```sh\n(.+?)```", PAGE.read_text(), re.DOTALL) for line in block.splitlines()
]
# what test_jobs.py does with a cluster and a client of its own, and with these variables
DONE_BY_TEST_JOBS = {
    "export RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=30 SLEEPMODEL_ROOT=$PWD/runs",
    "ray get-auth-token --generate > /dev/null",
    "ray start --head",
    "ray job submit --no-wait -- python pipelines/full.py smoke",
    "ray job stop JOB",
}


def test_each_command_is_run() -> None:
    assert set(COMMANDS) == DONE_BY_TEST_JOBS | set(LOOKS) | set(SERVERS)


@pytest.mark.parametrize("command", sorted(command for command in COMMANDS if command.startswith("ray ")))
def test_rays_own_command_line_can_read_it(command: str) -> None:
    found, words = cli, shlex.split(command.partition(">")[0])[1:]
    while isinstance(found, click.Group):
        found = found.commands[words.pop(0)]
    found.make_context(command, words)


@pytest.mark.parametrize("picture", re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE.read_text()))
def test_each_picture_is_there_and_small(picture: str) -> None:
    data = (PAGE.parent / picture).read_bytes()
    assert data.startswith(b"\x89PNG") and len(data) < 200_000
