"""Measure the overhead of DeepSpeed and Ray Train over the plain training loop, and the time to the first step.

    python -m benchmarks.overhead

Each trains the demo's model at N = 2 on one thread. Writes benchmarks/results/overhead.json.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import ray
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import command_parser
from benchmarks.results_file import ROOT, write_result
from benchmarks.timing import Seconds, median_ratio
from datagen import generate
from pipelines.config.presets import PRESETS
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.distributed.job import MODEL, TRAINING, TrainingJob, read_training
from sleepmodel.distributed.ray_train import fit
from sleepmodel.training.allocator import keep_freed_memory
from sleepmodel.training.engine import Engine, LocalEngine
from sleepmodel.training.loop import build_model, train
from sleepmodel.training.progress import Progress

DEMO = PRESETS["demo"]
CONFIG = replace(DEMO.train, steps=150)
ROUNDS, STARTS = 3, 1
PLAIN, DEEPSPEED, RAY_TRAIN = "plain loop", "DeepSpeed", "Ray Train + DeepSpeed"
STEPPING, REPORTING = "steps alone", "with validation and checkpoints"


def main() -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        # before the process group is set up, as Ray's workers would inherit its environment variables
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        sizes = {"train": CONFIG.steps * CONFIG.batch_size, "validation": DEMO.data.validation_rows}
        for split, rows in sizes.items():
            dataset = generate(DEMO.task, split, rows, DEMO.data.seed, root)
        model = replace(DEMO.model, sleep_passes=2)
        job = TrainingJob(name="bench", model=model, train=CONFIG, dataset=str(dataset), output=root)
        with _process_group():
            seconds = _compare(job)
        fits = [_fit_to_first_report(replace(job, output=f"{root}/first{i}")) for i in range(STARTS)]
        ray.shutdown()
    first = {"fit() on a running Ray": fits, "full.py smoke": [_command_to_first_report() for _ in range(STARTS)]}
    over = {
        of: {name: median_ratio(times, name, PLAIN) - 1 for name in (DEEPSPEED, RAY_TRAIN)}
        for of, times in seconds.items()
    }
    _show(seconds, over, first)
    payload = {"steps": CONFIG.steps, "validate_every": CONFIG.validate_every, "seconds_per_step": seconds}
    shares = {"overhead": over[REPORTING], "overhead_of_steps_alone": over[STEPPING]}
    print(write_result("overhead", {**payload, **shares, "seconds_to_first_step": first}))


def _compare(job: TrainingJob) -> dict[str, Seconds]:
    """Seconds per step of the three ways of training, in turns, with and without the work between steps. Each validates
    on the same rows and writes a checkpoint at each report."""
    runs: dict[str, Callable[[TrainingJob], list[Progress]]] = {
        PLAIN: lambda job: _in_process(LocalEngine(build_model(job.model, job.train), job.train), job),
        DEEPSPEED: lambda job: _in_process(
            DeepSpeedEngine(build_model(job.model, job.train), job.train, job.scale), job
        ),
        RAY_TRAIN: _under_ray,
    }
    seconds: dict[str, Seconds] = {of: {name: [] for name in runs} for of in (STEPPING, REPORTING)}
    for turn in range(ROUNDS):
        for name, run in runs.items():
            history = run(replace(job, output=f"{job.output}/round{turn}"))
            seconds[STEPPING][name].append(_stepping(history))
            seconds[REPORTING][name].append(_reporting(history))
    return seconds


def _in_process(engine: Engine, job: TrainingJob) -> list[Progress]:
    def report(at: Progress, save: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            save(Path(directory))

    return train(engine, job.rows(), job.train, job.validate(engine), report)


def _under_ray(job: TrainingJob) -> list[Progress]:
    fit(job)
    return read_training(Path(job.output)).history


def _stepping(history: list[Progress]) -> float:
    """Seconds per step between reports, median; the steps before the first report are warm-up."""
    tokens = history[0].tokens / history[0].step
    return statistics.median(tokens / at.tokens_per_second for at in history[1:])


def _reporting(history: list[Progress]) -> float:
    """Seconds per step from the first report to the last, with validation and checkpoints."""
    return (history[-1].seconds - history[0].seconds) / (history[-1].step - history[0].step)


@contextmanager
def _process_group() -> Iterator[None]:
    """Make this process a process group of one, as Ray Train would."""
    settings = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update(settings)
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    for name in settings:
        del os.environ[name]


def _fit_to_first_report(job: TrainingJob) -> float:
    """Seconds from calling `fit` for a single step until its history is written."""
    start = time.time()
    fit(replace(job, train=replace(job.train, steps=1)))
    return (Path(job.output) / MODEL / TRAINING.name).stat().st_mtime - start


def _command_to_first_report() -> float:
    """Seconds from starting `full.py smoke`, in a fresh process with its own Ray, to its first training report. They
    include imports, the start of Ray and data generation."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        start = time.monotonic()
        command = [
            sys.executable,
            "-u",
            "pipelines/full.py",
            "smoke",
            "--root",
            root,
            "--set",
            "train.validate_every=1",
        ]
        with subprocess.Popen(
            command,
            cwd=ROOT.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own, so that Ray's processes are killed with it
        ) as process:
            assert process.stdout is not None
            output = []
            for line in process.stdout:
                output.append(line)
                if "step 1/" in line:
                    seconds = time.monotonic() - start
                    os.killpg(process.pid, signal.SIGKILL)
                    return seconds
    raise RuntimeError(f"{' '.join(command)}: exited before its first training step:\n{''.join(output)}")


def _show(seconds: dict[str, Seconds], over: dict[str, dict[str, float]], first: Seconds) -> None:
    table = Table("", "ms per step", "overhead", title=f"demo model, N = 2, one thread, {ROUNDS} rounds")
    for of, contestants in seconds.items():
        table.add_section()
        for name, times in contestants.items():
            share = f"{over[of][name]:+.1%}" if name in over[of] else ""
            table.add_row(f"{name}, {of}", f"{1e3 * statistics.median(times):.1f}", share)
    Console().print(table)
    for name, times in first.items():
        print(f"from {name} to the first training report: {', '.join(f'{t:.1f}' for t in times)} s")


if __name__ == "__main__":
    command_parser("overhead", __doc__).parse_args()
    main()
