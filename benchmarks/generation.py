"""Rows per second: Rule 110 sampled in one process and written as Parquet on the local Ray, GSM in one process.

python -m benchmarks.generation [--shards 48]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_result
from datagen import Gsm, Rule110, generate, read_rows
from datagen.schema import SHARD_ROWS

TASKS = (Rule110(cells=24, states=4, steps=32), Rule110(cells=16, states=1, steps=6))

GSM_TASKS = (Gsm(), Gsm(hard=True))
GSM_ROWS = 1000


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(task: Rule110, shards: int, root: str) -> dict[str, Any]:
    """Rows/s: the best of five shards for one process; all shards, the cluster being up, for Ray and for reading."""
    rows = shards * SHARD_ROWS
    sampling = min(seconds(partial(task.sample, "train", 0, shard, SHARD_ROWS)) for shard in range(5))
    generation = seconds(lambda: generate(task, "train", rows, 0, root))
    path = generate(task, "train", rows, 0, root)
    return {
        "cells": task.cells,
        "states": task.states,
        "steps": task.steps,
        "sample_rows_per_s": round(SHARD_ROWS / sampling),
        "generate_rows_per_s": round(rows / generation),
        "read_rows_per_s": round(rows / seconds(lambda: read_rows(path, "train"))),
        "bytes_per_row": round(sum(file.stat().st_size for file in path.glob("train/*.parquet")) / rows, 1),
    }


def measure_gsm(task: Gsm) -> dict[str, Any]:
    """Problems/s of one process: the best of five shards."""
    best = min(seconds(partial(task.sample, "train", 0, shard, GSM_ROWS)) for shard in range(5))
    tokens = int(task.sample("train", 0, 0, GSM_ROWS).lengths.sum())
    return {
        "hard": task.hard,
        "tokens_per_row": round(tokens / GSM_ROWS),
        "sample_rows_per_s": round(GSM_ROWS / best),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=48, help=f"shards of {SHARD_ROWS} rows to generate")
    shards = parser.parse_args().shards
    ray.init(log_to_driver=False)
    cpus = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as root:
        generate(TASKS[0], "test", 2 * cpus * SHARD_ROWS, 0, root)  # starts the workers
        measured = [measure(task, shards, root) for task in TASKS]

    gsm = [measure_gsm(task) for task in GSM_TASKS]
    show(f"Rule 110, {shards} shards of {SHARD_ROWS:,} rows, Ray on {cpus} CPUs", measured)
    show(f"GSM, {GSM_ROWS:,} rows, one process", gsm)
    print(
        write_result("generation", {"rows": shards * SHARD_ROWS, "ray_cpus": cpus, "tasks": measured, "gsm": gsm}).name
    )


def show(title: str, results: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for name in results[0]:
        table.add_column(name.replace("_per_", "/").replace("_", " "), justify="right")
    for result in results:
        table.add_row(*(f"{value:,}" if type(value) in (int, float) else str(value) for value in result.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
