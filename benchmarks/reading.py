"""Compare reading training rows block by block with reading all of them into memory: rows per second and peak memory.

    python -m benchmarks.reading [--rows 10000 100000 1000000 10000000]

Each measurement is a fresh process that reads one epoch in batches of 512 rows. Writes benchmarks/results/reading.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import command_parser
from benchmarks.results_file import ROOT, write_result
from datagen import Rule110, generate, read_rows, stream
from datagen.blocks import Blocks
from pipelines.arguments import positive
from sleepmodel import TrainConfig
from sleepmodel.training.batches import BatchSampler, Prefetcher

TASK = Rule110(cells=24, states=4, steps=32)
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
BATCH = 512
WAYS = {"stream": lambda path: stream(path, "train"), "whole": lambda path: Blocks.of(read_rows(path, "train"))}


def epoch(way: str, path: Path) -> dict[str, Any]:
    """Read every batch of an epoch, in a fresh process; `way` is a key of WAYS."""
    before = peak_bytes()
    begin = time.perf_counter()
    blocks = WAYS[way](path)
    config = TrainConfig(steps=len(blocks) // BATCH, batch_size=BATCH)
    with Prefetcher(blocks) as reader:
        sampler = BatchSampler(reader, config)
        for step in range(config.steps):
            sampler.batch(step)
    seconds = time.perf_counter() - begin
    rate = sampler.config.steps * BATCH / seconds
    return {"blocks": len(blocks.sizes), "rows_per_s": round(rate), "peak_bytes": peak_bytes() - before}


def peak_bytes() -> int:
    """The most memory that this process has had, in bytes."""
    # of this process alone: ru_maxrss starts at the value of the parent process
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(peak) * 1024


def main() -> None:
    parser = command_parser("reading", __doc__)
    parser.add_argument("--rows", type=positive, nargs="+", default=list(SIZES), help="sizes of the datasets, in rows")
    parser.add_argument("--epoch", nargs=2, metavar=("WAY", "DATASET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.epoch:
        print(json.dumps(epoch(given.epoch[0], Path(given.epoch[1]))))
        return
    measured = []
    with tempfile.TemporaryDirectory() as root:
        ray.init(log_to_driver=False)
        paths = {rows: generate(TASK, "train", rows, seed, root) for seed, rows in enumerate(given.rows)}
        ray.shutdown()
        for rows, path in paths.items():
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks.reading", "--epoch", way, str(path)]
                printed = subprocess.run(command, cwd=ROOT.parent, check=True, capture_output=True, text=True).stdout
                measured.append({"rows": rows, "way": way, **json.loads(printed)})
    table = Table(
        "rows", "way", "blocks", "rows/s", "peak MB", title=f"batches of {BATCH} rows of {TASK.row_length} tokens"
    )
    for found in measured:
        cells = (f"{found['rows']:,}", found["way"], str(found["blocks"]), f"{found['rows_per_s']:,}")
        table.add_row(*cells, f"{found['peak_bytes'] / 1e6:,.0f}")
    Console().print(table)
    print(write_result("reading", {"batch": BATCH, "row_length": TASK.row_length, "measured": measured}).name)


if __name__ == "__main__":
    main()
