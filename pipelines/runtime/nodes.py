"""Asks nodes of the Ray cluster a question, each by a task that runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

T = TypeVar("T")
Node = dict[str, Any]  # an entry of ray.nodes()
ANSWER_SECONDS = 60


def alive() -> list[Node]:
    """The nodes of the cluster of this process."""
    return [node for node in ray.nodes() if node["Alive"]]


def ask(
    nodes: Sequence[Node], question: Callable[..., T], *arguments: object, gpus: int = 0
) -> list[tuple[Node, T | None]]:
    """Each node with what `question(*arguments)` returns there, in a task that takes `gpus` GPUs; with None where no
    answer came in ANSWER_SECONDS. Nodes that are lost meanwhile are left out.

    Raises ConnectionError, which names the node, where the task's process cannot run or dies.
    """
    task = ray.remote(num_cpus=0, num_gpus=gpus)(question)
    strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    asked = [task.options(scheduling_strategy=strategy).remote(*arguments) for strategy in strategies]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    found: list[tuple[Node, T | None]] = []
    for node, answer in zip(nodes, asked, strict=True):
        if answer not in answered:
            ray.cancel(answer)
            found.append((node, None))
            continue
        try:
            found.append((node, ray.get(answer)))
        except (NodeDiedError, TaskUnschedulableError):
            continue
        except RayTaskError:  # an error of the question itself
            raise
        except RayError as error:
            where = node["NodeManagerAddress"]
            raise ConnectionError(
                f"node {where} of Ray cannot be used, a process could not run there: {error}"
            ) from error
    return found
