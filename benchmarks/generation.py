"""Measure the rows per second of each task: sampled in one process, and written as Parquet by Ray tasks.

    python -m benchmarks.generation [--shards 48]

Writes benchmarks/results/generation.json.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import command_parser
from benchmarks.results_file import write_result
from datagen import Depo, Facts, Gsm, Recall, Rule110, generate, read_rows
from datagen.shard_size import SHARD_ROWS, rows_per_shard
from datagen.task import Task
from pipelines.arguments import positive
from sleepmodel.inference.stopwatch import seconds_of

# task -> its shards, as a fraction of --shards: a GSM row takes about a thousand times as long as a row of the others
TASKS: dict[Task, float] = {
    Rule110(cells=24, states=4, steps=32): 1,
    Rule110(cells=16, states=1, steps=6): 1,
    Depo(): 1,
    Facts(): 1 / 4,
    Gsm(): 1 / 12,
    Gsm(hard=True): 1 / 12,
    Recall(): 1 / 12,
    Recall(distances=(1, 2, 4, 8)): 1 / 12,
}
SAMPLED = 5  # repetitions of the single-process measurement, of which the fastest counts


def measure(task: Task, shards: int, root: str) -> dict[str, Any]:
    """Rows per second of sampling (one process, the fastest of SAMPLED shards), of generation on a running Ray, and of
    reading all shards."""
    shard_rows = rows_per_shard(task)
    rows = shards * shard_rows
    sampled = min(shard_rows, 1024) if isinstance(task, Gsm) else shard_rows
    sampling = min(seconds_of(partial(task.sample, "train", 0, shard, sampled)) for shard in range(SAMPLED))
    generation = seconds_of(lambda: generate(task, "train", rows, 0, root))
    path = generate(task, "train", rows, 0, root)
    return {
        "task": task.name,
        "rows": rows,
        "config": asdict(task),
        "sample_rows_per_s": round(sampled / sampling),
        "generate_rows_per_s": round(rows / generation),
        "read_rows_per_s": round(rows / seconds_of(lambda: read_rows(path, "train"))),
        "bytes_per_row": round(sum(file.stat().st_size for file in path.glob("train/*.parquet")) / rows, 1),
    }


def main() -> None:
    parser = command_parser("generation", __doc__)
    parser.add_argument(
        "--shards", type=positive, default=48, help="full shards to generate of each task (fewer for GSM and Facts)"
    )
    shards = parser.parse_args().shards
    ray.init(log_to_driver=False)
    cpus = int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]
    with tempfile.TemporaryDirectory() as root:
        generate(next(iter(TASKS)), "test", 2 * cpus * SHARD_ROWS, 0, root)  # so that Ray's workers are running
        measured = [measure(task, max(1, round(shards * share)), root) for task, share in TASKS.items()]

    table = Table(title=f"rows per second, Ray on {cpus} CPUs")
    for name in measured[0]:
        table.add_column(name.replace("_per_", "/").replace("_", " "), justify="right")
    for result in measured:
        config = ", ".join(f"{name} {value}" for name, value in result["config"].items())
        figures = [f"{value:,}" for name, value in result.items() if name not in ("task", "config")]
        table.add_row(result["task"], config, *figures)
    Console().print(table)
    print(write_result("generation", {"ray_cpus": cpus, "tasks": measured}).name)


if __name__ == "__main__":
    main()
