"""What DeepSpeed and Ray cost: the demo's training by the plain loop, by DeepSpeed's engine, and under Ray Train; and
the time from a command to its first training step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ray
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results_file import write_result
from datagen import Rows, generate, read_rows
from pipelines.presets import PRESETS
from sleepmodel import Scale
from sleepmodel.allocator import keep_freed_memory
from sleepmodel.distributed import DeepSpeedEngine, fit
from sleepmodel.job import Job, read_history
from sleepmodel.training import Engine, LocalEngine, Progress, build_model, train

DEMO = PRESETS["demo"]
MODEL = replace(DEMO.model, sleep_passes=2)
STEPS, EVERY, ROUNDS = 150, 50, 3
CONFIG = replace(DEMO.train, steps=STEPS, validate_every=EVERY)
PLAIN, DEEPSPEED, RAY_TRAIN = "plain loop", "DeepSpeed", "Ray Train + DeepSpeed"


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        for split, rows in (("train", STEPS * CONFIG.batch_size), ("validation", 64)):
            dataset = generate(DEMO.task, split, rows, 0, root)
        ray.shutdown()  # the engines alone first: a Ray beside them would take their cores
        seconds = _engines(read_rows(dataset, "train"))
        ray.init(num_cpus=2, logging_level="ERROR", log_to_driver=False)
        jobs = [
            Job(name=str(i), model=MODEL, train=CONFIG, dataset=str(dataset), output=f"{root}/{i}")
            for i in range(ROUNDS)
        ]
        starts = []
        for job in jobs:
            begin = time.monotonic()
            fit(job)
            history = read_history(Path(job.output))
            starts.append(time.monotonic() - begin - history[-1].seconds)
            seconds[RAY_TRAIN].append(_seconds_per_step(history))
        ray.shutdown()
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    over = {name: medians[name] / medians[PLAIN] - 1 for name in (DEEPSPEED, RAY_TRAIN)}
    first = {"fit() on a running Ray, around the training": statistics.median(starts), "command": _command_seconds()}
    _show(medians, over, first)
    payload = {"steps": STEPS, "seconds_per_step": seconds, "overhead": over, "seconds_to_first_step": first}
    print(write_result("overhead", payload))


def _engines(rows: Rows) -> dict[str, list[float]]:
    """Seconds a step of the plain loop and of DeepSpeed's engine, in turn, in this process."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    makers: dict[str, Callable[[], Engine]] = {
        PLAIN: lambda: LocalEngine(build_model(MODEL, CONFIG), CONFIG),
        DEEPSPEED: lambda: DeepSpeedEngine(build_model(MODEL, CONFIG), CONFIG, Scale()),
    }
    seconds: dict[str, list[float]] = {PLAIN: [], DEEPSPEED: [], RAY_TRAIN: []}
    for _ in range(ROUNDS):
        for name, make in makers.items():
            seconds[name].append(
                _seconds_per_step(train(make(), rows, CONFIG, lambda model: 0.0, lambda at, save: None))
            )
    torch.distributed.destroy_process_group()
    return seconds


def _seconds_per_step(history: list[Progress]) -> float:
    """In the steady state: without the first report's steps, which warm up; with what reporting costs."""
    return (history[-1].seconds - history[0].seconds) / (history[-1].step - history[0].step)


def _command_seconds() -> float:
    """From `python pipelines/full.py smoke` in a fresh process, with a Ray of its own, to its first training report."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        begin = time.monotonic()
        command = [sys.executable, "pipelines/full.py", "smoke", "--root", root, "--set", "train.validate_every=1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "step 1/" in line:
                    break
            seconds = time.monotonic() - begin
            process.kill()
    return seconds


def _show(medians: dict[str, float], over: dict[str, float], first: dict[str, float]) -> None:
    table = Table("what", "ms a step", "over the plain loop")
    for name, value in medians.items():
        table.add_row(name, f"{1e3 * value:.1f}", f"{over[name]:+.1%}" if name in over else "")
    Console().print(table)
    for name, value in first.items():
        print(f"seconds to the first step, {name}: {value:.1f}")


if __name__ == "__main__":
    main()
