"""What nodes of a real Ray answer, and what their silence and their deaths become."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pipelines.runtime import nodes
from pipelines.runtime.nodes import alive, ask


def test_each_node_answers(ray_cluster: str) -> None:
    everyone = alive()

    def double(number: int) -> int:
        return 2 * number

    assert len(everyone) == 1 and ask(everyone, double, 21) == [(everyone[0], 42)]
    assert ask([], double, 21) == []


def test_no_answer_in_time_is_none(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleeps(seconds: float) -> None:
        time.sleep(seconds)

    monkeypatch.setattr(nodes, "ANSWER_SECONDS", 0.5)
    (node,) = alive()
    assert ask([node], sleeps, 1000) == [(node, None)]


def test_an_error_of_the_question_is_raised_and_a_death_names_the_node(ray_cluster: str) -> None:
    def refuses() -> None:
        raise ValueError("no such file")

    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    (node,) = alive()
    with pytest.raises(ValueError, match="no such file"):
        ask([node], refuses)
    with pytest.raises(ConnectionError, match=rf"node {node['NodeManagerAddress']} of Ray cannot be used, a process"):
        ask([node], dies)
