"""Connects this process to Ray, and says within seconds if the Ray that it is told to use is not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import ray
from ray._common.utils import get_ray_address_file
from ray._private.gcs_utils import create_gcs_channel
from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address
from ray.core.generated.gcs_service_pb2 import CheckAliveRequest  # type: ignore[attr-defined]
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

ANSWER_SECONDS = 8  # limit for the answer of a Ray that exists
OWN_RAY = "set RAY_ADDRESS=local to start a Ray for this run alone"


def connect_to_ray(**options: Any) -> None:
    """Connect this process to Ray, unless it is connected: to $RAY_ADDRESS, else to the local Ray that `ray start`
    started, else to a new one. options: of `ray.init`.

    Raises ConnectionError, which names the address and where it comes from, if no Ray answers there in ANSWER_SECONDS;
    `ray.init` would try for a quarter of an hour. Raises ValueError for an address that Ray cannot use, and for a Ray
    of another version.
    """
    if ray.is_initialized():
        return
    address = ray_address()
    if address is not None and (trouble := _no_answer(address)):
        raise ConnectionError(_message(os.environ.get("RAY_ADDRESS", ""), address, trouble))
    with _same_versions():
        ray.init(address, **options)


def connected_to_ray() -> bool:
    """Whether this process is connected to a Ray."""
    return bool(ray.is_initialized())


def ray_address() -> str | None:
    """The host:port that $RAY_ADDRESS, or Ray's file where it is empty, stands for; None: a new Ray. Raises
    ConnectionError and ValueError as `connect_to_ray`."""
    given = os.environ.get("RAY_ADDRESS", "")
    if "://" in given:
        raise ValueError(
            f"RAY_ADDRESS={given}: must be host:port of a Ray head, such as 10.0.0.1:6379; to run on a cluster from "
            "outside of it, submit a job (docs/cluster.md)"
        )
    named = given or find_bootstrap_address(None)
    try:
        return canonicalize_bootstrap_address(named) if named else None
    except ConnectionError as error:
        raise ConnectionError(
            f"RAY_ADDRESS={given}: no Ray runs on this machine: start one with `ray start --head`, or {OWN_RAY}"
        ) from error
    except ValueError as error:
        raise ValueError(f"RAY_ADDRESS={given}: {error}; must be host:port, auto or local") from error


def _no_answer(address: str) -> str:
    """Why an address is not that of a Ray head; "" if it is."""
    with create_gcs_channel(address) as channel:
        try:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:  # Ray is there, and says itself what it wants
                return f"{error.code().name}: {error.details()}"
    return ""


def _message(given: str, address: str, trouble: str) -> str:
    if given in ("", "auto"):
        return (
            f"{get_ray_address_file(None)} names a Ray at {address}, which does not answer ({trouble}): if it was "
            f"killed, remove what is left of it with `ray stop`; or {OWN_RAY}"
        )
    return (
        f"RAY_ADDRESS={given}: no Ray answers there ({trouble}): start that Ray, correct the address, or unset "
        f"RAY_ADDRESS to use this machine; on a cluster with TLS, also check the RAY_TLS_* variables"
    )


@contextmanager
def _same_versions() -> Iterator[None]:
    """Raise ValueError, in place of Ray's RuntimeError, if the cluster has another Ray or Python than this process."""
    try:
        yield
    except RuntimeError as error:
        found = re.findall(r"(Ray|Python): (\S+)", str(error))
        if not str(error).startswith("Version mismatch") or len(found) != 4:
            raise
        theirs, ours = (", ".join(map(" ".join, found[i : i + 2])) for i in (0, 2))
        raise ValueError(
            f"the Ray cluster was started with {theirs}, and this process has {ours}: install the cluster's versions "
            "here, or start the cluster with these (`ray up` again, or `ray stop` and `ray start --head`)"
        ) from error
